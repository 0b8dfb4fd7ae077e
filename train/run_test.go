package train_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/train"
	"fewstep/train/monitor"
	"fewstep/train/tinypipeline"
)

// stopAt interrupts a run after so many updates.
type stopAt struct {
	after int
	stop  context.CancelFunc
}

func (s *stopAt) Update(r monitor.Record) error {
	if r.Kind == monitor.KindStep {
		if s.after--; s.after == 0 {
			s.stop()
		}
	}
	return nil
}

func (s *stopAt) Close() error { return nil }

// walk runs the tiny ladder's first stages on a CPU plugin, interrupting it after the given numbers of updates.
func walk(t *testing.T, recipe, dir, until string, opt xla.Options, interrupt []int, set ...string) {
	t.Helper()
	c, err := distill.Load(recipe, set...)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.CPU, opt)
	if err != nil {
		t.Skip(err)
	}
	defer rt.Close()
	for _, after := range append(interrupt, 0) {
		ctx, stop := context.WithCancel(t.Context())
		r, err := train.Open(c, train.Options{Dir: dir, Until: until, Split: true, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler),
			Progress: &stopAt{after, stop}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.Walk(ctx); err != nil != (after > 0) {
			t.Fatalf("to be interrupted after %d updates: %v", after, err)
		}
		stop()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// made lists a run's results and statistics, with their digests.
func made(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(path, "/result/") && path != "stats.jsonl" || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(dir, path))
		out[path] = fmt.Sprintf("%x", sha256.Sum256(raw))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func same(t *testing.T, want, got map[string]string) {
	t.Helper()
	if len(want) < 7 || len(want) != len(got) {
		t.Fatalf("%d files and %d", len(want), len(got))
	}
	for name := range want {
		if want[name] != got[name] {
			t.Errorf("%s differs", name)
		}
	}
}

func tiny(t *testing.T) string {
	t.Helper()
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "assets", "mini"))
	if err != nil {
		t.Fatal(err)
	}
	return recipe
}

// The layer over the plugin's table changes how programs are run, not what they compute.
func TestLayerChangesNothing(t *testing.T) {
	recipe, plain, layered := tiny(t), t.TempDir(), t.TempDir()
	walk(t, recipe, plain, "8", xla.Options{Plain: true}, nil)
	walk(t, recipe, layered, "8", xla.Options{Programs: "off"}, nil)
	same(t, made(t, plain), made(t, layered))
}

// SDXL's settings: blocks walked one by one in bf16 over bf16 frozen weights, in every kind of phase. An interrupted run
// ends with the same bytes, with a LoRA teacher beside the base, too.
func TestLayersInBF16(t *testing.T) {
	recipe, straight, broken := tiny(t), t.TempDir(), t.TempDir()
	set := []string{"train.granularity=layer", "train.calls=layer", "train.compute=bf16", "train.frozen=bf16", "train.accumulate=1"}
	walk(t, recipe, straight, "", xla.Options{}, nil, set...)
	walk(t, recipe, broken, "", xla.Options{}, []int{1, 4, 9}, set...)
	same(t, made(t, straight), made(t, broken))
	records, err := monitor.ReadStats(filepath.Join(straight, "stats.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		for name, v := range r.Values {
			if v != v || v-v != 0 {
				t.Errorf("%s %s: %s is %g", r.Stage, r.Phase, name, v)
			}
		}
	}
}
