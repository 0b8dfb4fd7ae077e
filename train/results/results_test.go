package results

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train"
	"fewstep/train/rundir"
	"fewstep/train/tinypipeline"
)

// walked walks the first stage of the tiny ladder, with a function between it and the maker of its results, and returns
// how many programs the run's engine ran for the results.
func walked(t *testing.T, recipe, dir string, log *bytes.Buffer, between func(finish func() error) error, set ...string) (runs int64) {
	t.Helper()
	c, err := configs.Load(recipe, set...)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	m := &Maker{Log: slog.New(slog.NewTextHandler(log, nil))}
	r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Until: "16", Split: true, Backend: rt.Backend, Log: m.Log,
		Finished: func(ctx context.Context, r *train.Run, s distill.Step) error {
			before := r.Engine.Runs()
			defer func() { runs += r.Engine.Runs() - before }()
			return between(func() error { return m.Phase(ctx, r, s) })
		}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Walk(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return runs
}

func undisturbed(finish func() error) error { return finish() }

func tiny(t *testing.T) string {
	t.Helper()
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	return recipe
}

// sheets are a run's, by name.
func sheets(t *testing.T, dir string) map[string]image.Image {
	t.Helper()
	d, err := rundir.View(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Artifacts(rundir.Sheets)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]image.Image{}
	for _, name := range names {
		raw, err := os.ReadFile(d.ArtifactPath(rundir.Sheets, name))
		if err != nil {
			t.Fatal(err)
		}
		if out[name], err = png.Decode(bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// A run in bf16, block by block, draws its sheets in the same way, so that they fit where its training fits; the pictures
// are those of f32 but for bf16's noise.
func TestSheetsAreDrawnAsTheRunTrains(t *testing.T) {
	recipe, plain, blocks := tiny(t), t.TempDir(), t.TempDir()
	var log bytes.Buffer
	whole := walked(t, recipe, plain, &log, undisturbed)
	apart := walked(t, recipe, blocks, &log, undisturbed, "train.compute=bf16", "train.frozen=bf16", "train.granularity=layer", "train.calls=layer")
	if whole == 0 || apart < 3*whole {
		t.Errorf("the run's engine ran %d programs for the sheets in blocks, and %d as whole networks", apart, whole)
	}
	want, got := sheets(t, plain), sheets(t, blocks)
	if len(want) != 2 || len(got) != 2 {
		t.Fatalf("%d and %d sheets, of a LoRA and a full model\n%s", len(want), len(got), &log)
	}
	for name, a := range want {
		b := got[name]
		if b == nil || a.Bounds() != b.Bounds() {
			t.Fatalf("%s: %v in f32, %v in bf16", name, a.Bounds(), b)
		}
		var sum, most float64
		for y := range a.Bounds().Dy() {
			for x := range a.Bounds().Dx() {
				r, g, bl, _ := a.At(x, y).RGBA()
				r2, g2, bl2, _ := b.At(x, y).RGBA()
				for _, d := range []float64{float64(r) - float64(r2), float64(g) - float64(g2), float64(bl) - float64(bl2)} {
					d = math.Abs(d) / 257
					sum, most = sum+d, max(most, d)
				}
			}
		}
		mean := sum / float64(3*a.Bounds().Dx()*a.Bounds().Dy())
		t.Logf("%s: %.3f of 255 apart on average, %.0f at most", name, mean, most)
		if most == 0 || mean > 1 {
			t.Errorf("%s: bf16's picture is %.3f of 255 from f32's, %.0f at most", name, mean, most)
		}
	}
}

// Two devices draw a sheet as one does, each its part in smaller batches: a pixel may differ by one grey level.
func TestSheetsOnTwoDevices(t *testing.T) {
	recipe, dir := tiny(t), t.TempDir()
	var log bytes.Buffer
	walked(t, recipe, dir, &log, undisturbed)
	want := sheets(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "sheets")); err != nil {
		t.Fatal(err)
	}
	c, err := configs.Load(recipe)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.CPU, xla.Options{Devices: 2})
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	m := &Maker{Log: slog.New(slog.NewTextHandler(&log, nil))}
	r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Until: "16", Split: true, Devices: 2, Backend: rt.Backend, Log: m.Log, Finished: m.Phase})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Walk(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Engines()); n != 2 || r.Engines()[1].Runs() == 0 {
		t.Errorf("of %d devices the second drew nothing", n)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got := sheets(t, dir)
	if len(want) != 2 || len(got) != 2 {
		t.Fatalf("%d and %d sheets\n%s", len(want), len(got), &log)
	}
	for name, a := range want {
		b, most := got[name], 0.0
		for y := range a.Bounds().Dy() {
			for x := range a.Bounds().Dx() {
				r, g, bl, _ := a.At(x, y).RGBA()
				r2, g2, bl2, _ := b.At(x, y).RGBA()
				for _, d := range []float64{float64(r) - float64(r2), float64(g) - float64(g2), float64(bl) - float64(bl2)} {
					most = max(most, math.Abs(d)/257)
				}
			}
		}
		if most > 1 {
			t.Errorf("%s: two devices draw it %g grey levels from one", name, most)
		}
	}
}

// A sheet that cannot be drawn does not end a run: it is told, training goes on, and the next start draws it. One that
// cannot be saved ends it.
func TestSheetThatCannotBeDrawn(t *testing.T) {
	recipe, dir := tiny(t), t.TempDir()
	encoder := filepath.Join(filepath.Dir(recipe), "tinymodel", "text_encoder", "model.safetensors")
	away := func(finish func() error) error {
		if err := os.Rename(encoder, encoder+".away"); err != nil {
			return err
		}
		err := finish()
		if err := os.Rename(encoder+".away", encoder); err != nil {
			return err
		}
		return err
	}
	var log bytes.Buffer
	walked(t, recipe, dir, &log, away)
	if n := strings.Count(log.String(), "no sample sheet was drawn"); n != 2 || !strings.Contains(log.String(), "text_encoder") {
		t.Errorf("%d sheets were missed by the log:\n%s", n, &log)
	}
	if got := sheets(t, dir); len(got) != 0 {
		t.Errorf("%d sheets were drawn without a text encoder", len(got))
	}
	if _, err := os.Stat(filepath.Join(dir, "exports", "16step_unet.safetensors")); err != nil {
		t.Error(err)
	}
	walked(t, recipe, dir, &log, undisturbed)
	if got := sheets(t, dir); len(got) != 2 {
		t.Errorf("the next start drew %d sheets", len(got))
	}
}
