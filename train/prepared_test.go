package train_test

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/internal/xla"
	"fewstep/train"
	"fewstep/train/monitor"
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
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	encodings := t.TempDir()
	if _, err := encodeTiny(t, recipe, c.SourcePath(), encodings); err != nil {
		t.Fatal(err)
	}
	dir, own := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "own")
	walk(t, xla.Go, recipe, dir, "8", xla.Options{}, nil, "data.source="+encodings)
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
		c, err := configs.Load(recipe, append(set, "data.source="+encodings)...)
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
	manifest := filepath.Join(encodings, data.EncodedManifest)
	raw, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	hash := regexp.MustCompile(`"vae": *"[0-9a-f]{64}"`)
	if !hash.Match(raw) {
		t.Fatalf("%s", raw)
	}
	if err := os.WriteFile(manifest, hash.ReplaceAll(raw, []byte(`"vae": "0123"`)), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "another VAE") {
		t.Error(err)
	}
}
