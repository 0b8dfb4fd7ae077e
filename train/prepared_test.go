package train_test

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/encoded"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/monitor"

	"github.com/gomlx/compute/dtypes"
)

// firstValues are the statistics of a run's first update.
func firstValues(t *testing.T, dir string) map[string]float64 {
	t.Helper()
	records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if len(r.Values) > 0 {
			return r.Values
		}
	}
	t.Fatal("no statistics")
	return nil
}

// A run takes encodings that were made apart: it encodes nothing itself, and refuses those of another resolution or VAE.
func TestPreparedEncodings(t *testing.T) {
	recipe := with(t, tiny(t), adversarial)
	c, err := configs.Load(recipe)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Open(c.ModelPath())
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	enc, err := encoder.Load(p, engine.New(rt.Backend, dtypes.Float32, nn.Network), 16, encoder.VAEPart, encoder.TextPart)
	if err != nil {
		t.Fatal(err)
	}
	s, err := train.Preparing(t.Context(), p, c.Data, func(string) (*encoder.Encoders, error) { return enc, nil })
	if err != nil {
		t.Fatal(err)
	}
	s.Dir, s.Source, s.Batch, s.TextLimit = t.TempDir(), c.SourcePath(), 16, 1<<30
	set, err := data.Open(t.Context(), s.Source, data.Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	if _, err := encoded.Run(context.Background(), set, s); err != nil {
		t.Fatal(err)
	}
	enc.Free()
	dir, own := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "own")
	walk(t, xla.Go, recipe, dir, "8", xla.Options{}, nil, "data.source="+s.Dir)
	if files, err := filepath.Glob(filepath.Join(dir, "encoded", "*.f32")); err != nil || len(files) > 0 {
		t.Errorf("the run encoded %v, %v", files, err)
	}
	walk(t, xla.Go, recipe, own, "8", xla.Options{}, nil)
	a, b := firstValues(t, dir), firstValues(t, own)
	for name, v := range a {
		if math.Abs(v-b[name]) > 0.1*math.Abs(b[name])+0.02 {
			t.Errorf("the first %s is %g with encodings in bf16, %g with the run's own", name, v, b[name])
		}
	}
	open := func(set ...string) error {
		c, err := configs.Load(recipe, append(set, "data.source="+s.Dir)...)
		if err != nil {
			t.Fatal(err)
		}
		r, err := train.Open(t.Context(), c, train.Options{Dir: filepath.Join(t.TempDir(), "run"), Until: "8", Backend: rt.Backend, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Walk(t.Context())
		if closed := r.Close(); closed != nil {
			t.Fatal(closed)
		}
		return err
	}
	if err := open("data.resolution=32"); err == nil || !strings.Contains(err.Error(), "encoded in the shapes [16×16]") {
		t.Error(err)
	}
	manifest := filepath.Join(s.Dir, data.EncodedManifest)
	raw, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, []byte(strings.Replace(string(raw), s.VAE, "0123", 1)), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "another VAE") {
		t.Error(err)
	}
}
