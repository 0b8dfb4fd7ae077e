package train_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/cost"
	"fewstep/train/monitor"
	"fewstep/train/tinypipeline"

	"github.com/gomlx/compute"
)

func TestMain(m *testing.M) {
	xlatest.QuickCompile()
	os.Exit(m.Run())
}

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

// walk runs the tiny ladder's first stages on a kind of backend, interrupting it after the given numbers of updates.
func walk(t *testing.T, kind, recipe, dir, until string, opt xla.Options, interrupt []int, set ...string) {
	t.Helper()
	c, err := configs.Load(recipe, set...)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(kind, opt)
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	for _, after := range append(interrupt, 0) {
		walkOn(t, rt.Backend, c, dir, until, after)
	}
}

// walkOn goes on with a run, for so many updates; 0 = to its end. It returns the most that lay in the host's memory.
func walkOn(t *testing.T, backend compute.Backend, c *configs.Recipe, dir, until string, after int) (host int64) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Until: until, Split: true, Backend: backend, Log: slog.New(slog.DiscardHandler),
		Progress: &stopAt{after, stop}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Engine.Offload > 0 {
		r.Engine.Offload = 64 // the tiny networks' tensors are small
	}
	_, walked := r.Walk(ctx)
	stop()
	if err := r.Close(); err != nil { // before the backend
		t.Fatal(err)
	}
	if walked != nil != (after > 0) {
		t.Fatalf("to be interrupted after %d updates: %v", after, walked)
	}
	return r.Engine.Memory().HostPeak
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
	if len(want) < 4 || len(want) != len(got) {
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
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	return recipe
}

// with is the recipe with other stages.
func with(t testing.TB, recipe, stages string) string {
	t.Helper()
	raw, err := os.ReadFile(recipe)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(raw), "stages:\n")
	if !ok {
		t.Fatal("the tiny recipe has no stages")
	}
	f, err := os.CreateTemp(filepath.Dir(recipe), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(before + "stages:\n" + stages); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// everyKind are short stages of which the second's teacher is a LoRA.
const everyKind = `
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: [{name: mse-lora, samples: 4, lr: 1e-3}]}
  - name: "8"
    teacher_steps: 16
    phases: [{name: lora-cond, samples: 4, lr: 1e-3}, {name: lora-uncond, samples: 4, lr: 1e-3}, {name: merge}, {name: full-uncond, samples: 4, lr: 1e-3}]
`

// adversarial is one phase with a student, a teacher and a discriminator.
const adversarial = `
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 4, lr: 1e-3}]}
`

// The layer over the plugin's table changes how programs are run, not what they compute.
func TestLayerChangesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the tiny pipeline's programs twice")
	}
	recipe, plain, layered := with(t, tiny(t), adversarial), t.TempDir(), t.TempDir()
	walk(t, xla.CPU, recipe, plain, "8", xla.Options{Plain: true}, nil)
	walk(t, xla.CPU, recipe, layered, "8", xla.Options{Programs: "off"}, nil)
	same(t, made(t, plain), made(t, layered))
}

// A run that reads an update's numbers when two more are queued makes the same bytes as one that reads each before the next,
// as a checkpoint after every update makes it, and may be interrupted. So does one that waits because a gate decides.
func TestQueuedUpdatesChangeNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder several times")
	}
	recipe := tiny(t)
	for _, c := range []struct {
		name, kind, stages string
		set                []string
	}{
		{"every kind", xla.Go, everyKind, nil},
		{"micro-batches", xla.Go, adversarial, []string{"train.batch=1", "train.accumulate=2"}},
		{"gate", xla.Go, adversarial, []string{"stages.8.phases.lora-cond.gate=0.4", "stages.8.phases.lora-cond.warmup_discriminator=4"}},
		{"queued on the device", xla.CPU, adversarial, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			recipe, one, queued, broken := with(t, recipe, c.stages), t.TempDir(), t.TempDir(), t.TempDir()
			set := append(c.set, "stages.*.phases.*.samples=14")
			opt := xla.Options{Programs: t.TempDir()}
			walk(t, c.kind, recipe, one, "8", opt, nil, set...)
			set = append(set, "train.checkpoint_samples=0")
			walk(t, c.kind, recipe, queued, "8", opt, nil, set...)
			same(t, made(t, one), made(t, queued))
			walk(t, c.kind, recipe, broken, "8", opt, []int{3}, set...)
			same(t, made(t, one), made(t, broken))
		})
	}
}

// An update that is not finite is known when later ones are queued: neither a checkpoint nor a result holds any of them, and
// its own samples are named.
func TestNotFiniteWhileOthersAreQueued(t *testing.T) {
	recipe := with(t, tiny(t), `
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: [{name: mse-full, samples: 120, lr: 1e-3, weight_decay: 5e3}]}
`) // decay multiplies the weights by nearly -4 in every update
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	after := 0 // records after which the run is interrupted; first none
	for range 2 {
		c, err := configs.Load(recipe, "train.checkpoint_samples=0", "train.batch=2")
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		ctx, stop := context.WithCancel(t.Context())
		r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Split: true, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler), Progress: &stopAt{after, stop}})
		if err != nil {
			t.Fatal(err)
		}
		_, walked := r.Walk(ctx)
		stop()
		if !r.Unsaved() {
			t.Error("the updates count as saved")
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		var bad *monitor.NonFinite
		if !errors.As(walked, &bad) {
			t.Fatalf("%v", walked)
		}
		if after = int(bad.Step) - 1; after < 2 {
			t.Fatalf("step %d is the first that is not finite; no other would be queued", bad.Step)
		}
		if len(bad.Samples) != 2 || bad.Samples[0] != 2*(bad.Step-1) || len(bad.Keys) != 2 {
			t.Errorf("step %d was made of samples %v, %v", bad.Step, bad.Samples, bad.Keys)
		}
		records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
		if err != nil || int64(len(records)) != bad.Step { // one when the phase began, and one for each update before
			t.Errorf("%d records before step %d, %v", len(records), bad.Step, err)
		}
		if found, err := filepath.Glob(filepath.Join(dir, "stages", "*", "*", "*", "student.safetensors")); err != nil || len(found) > 0 {
			t.Errorf("%v were saved, %v", found, err)
		}
	}
}

// SDXL's settings: blocks walked one by one in bf16 over bf16 frozen weights, in every kind of phase. An interrupted run
// ends with the same bytes. One of the teachers is a LoRA beside the base.
func TestLayersInBF16(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a ladder twice")
	}
	recipe, straight, broken := with(t, tiny(t), everyKind), t.TempDir(), t.TempDir()
	set := []string{"train.granularity=layer", "train.calls=layer", "train.compute=bf16", "train.frozen=bf16"}
	walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil, set...)
	walk(t, xla.Go, recipe, broken, "8", xla.Options{}, []int{3, 4}, set...)
	same(t, made(t, straight), made(t, broken))
	finite(t, straight)
}

func finite(t *testing.T, dir string) {
	t.Helper()
	records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if len(records) < 6 {
		t.Fatalf("only %d records", len(records))
	}
	for _, r := range records {
		for name, v := range r.Values {
			if v != v || v-v != 0 {
				t.Errorf("%s %s: %s is %g", r.Stage, r.Phase, name, v)
			}
		}
	}
}

// memoryOf keeps what each phase took.
type memoryOf struct {
	run  *train.Run
	held map[string]int64
}

func (m *memoryOf) Update(r monitor.Record) error {
	if r.Kind == monitor.KindPhase {
		m.run.Engine.ResetPeak()
	} else {
		m.held[r.Stage+"/"+r.Phase] = m.run.Engine.Memory().Held
	}
	return nil
}

func (m *memoryOf) Close() error { return nil }

// wallClockApart looks for a step's speed, memory and parts where they belong, and only there.
func wallClockApart(t *testing.T, dir string) {
	t.Helper()
	var raw [2]string
	for i, name := range []string{"timing.jsonl", "stats.jsonl"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		raw[i] = string(b)
	}
	for _, name := range []string{monitor.TFLOPs, monitor.MemoryLive, monitor.MemoryPeak, monitor.DataSeconds, monitor.TeacherSeconds,
		monitor.DiscriminatorSeconds, monitor.StudentSeconds, monitor.UpdateSeconds} {
		if !strings.Contains(raw[0], `"`+name+`":`) {
			t.Errorf("timing.jsonl does not tell %s", name)
		}
		if strings.Contains(raw[1], name) {
			t.Errorf("stats.jsonl tells %s, which differs from run to run", name)
		}
	}
	measured := 0
	for line := range strings.Lines(raw[0]) {
		var row struct {
			Seconds float64        `json:"step_seconds"`
			Wall    monitor.Values `json:"wall"`
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		if _, ok := row.Wall[monitor.TeacherSeconds]; !ok {
			continue
		}
		measured++
		parts := row.Wall[monitor.DataSeconds] + row.Wall[monitor.TeacherSeconds] + row.Wall[monitor.DiscriminatorSeconds] + row.Wall[monitor.StudentSeconds] + row.Wall[monitor.UpdateSeconds]
		if parts > row.Seconds+1e-6 || parts < 0.8*row.Seconds-0.05 {
			t.Errorf("the parts of a step are %g s together, the step %g s", parts, row.Seconds)
		}
	}
	if measured == 0 {
		t.Error("no step's parts were measured")
	}
}

// What a phase keeps on the device is what the plan says, but for the compiled programs' scratch space.
func TestMemoryIsPlanned(t *testing.T) {
	recipe := tiny(t)
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	layer := []string{"train.granularity=layer", "train.batch=1", "train.accumulate=2"}
	for _, mode := range []struct {
		name, recipe string
		split        bool
		set          []string
	}{
		{"split", recipe, true, []string{"train.ema=0.9", "train.clip_norm=1"}},
		{"layer", with(t, recipe, everyKind), false, layer},
		{"layer, small card", with(t, recipe, onlyAdapters), false, append(slices.Clone(layer), smallCard...)},
		{"split, small card", with(t, recipe, onlyAdapters), true, append([]string{"train.batch=2"}, smallCard...)},
		{"full over a discriminator of adapters", with(t, recipe, everyKind), false, append(slices.Clone(layer), smallCard...)},
	} {
		t.Run(mode.name, func(t *testing.T) {
			c, err := configs.Load(mode.recipe, append(mode.set, "stages.*.phases.*.samples=6")...) // of three updates one moves the student while the next one is made ready
			if err != nil {
				t.Fatal(err)
			}
			seen, dir := &memoryOf{held: map[string]int64{}}, t.TempDir()
			seen.run, err = train.Open(t.Context(), c, train.Options{Dir: dir, Until: "8", Split: mode.split, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler), Progress: seen})
			if err != nil {
				t.Fatal(err)
			}
			defer seen.run.Close()
			if _, err := seen.run.Walk(t.Context()); err != nil {
				t.Fatal(err)
			}
			wallClockApart(t, dir)
			p := seen.run.Pipeline
			phases, err := cost.Plan(rt.Backend, c, cost.Model{Denoiser: p.UNet, Schedule: p.Schedule, Factor: p.VAE.Factor(),
				Tokens: p.UNetInputs(1, pipeline.Square(c.Data.Resolution))[2].Dim(1)}, cost.Device{Split: mode.split})
			if err != nil {
				t.Fatal(err)
			}
			if len(seen.held) < 3 {
				t.Fatalf("only %d phases ran", len(seen.held))
			}
			for _, ph := range phases {
				got, want := seen.held[ph.Stage+"/"+ph.Phase], ph.Memory.Arrays
				if got > 0 && math.Abs(float64(got-want)) > 0.001*float64(want) {
					t.Errorf("%s/%s takes %d bytes, planned were %d", ph.Stage, ph.Phase, got, want)
				}
			}
		})
	}
}

// data.vae_tile has the images encoded in tiles: other latents, and so other weights. A side whose overlaps are not whole
// latents is refused before there is a run directory.
func TestTiledEncoding(t *testing.T) {
	recipe, whole, large, tiled := with(t, tiny(t), adversarial), t.TempDir(), t.TempDir(), t.TempDir()
	walk(t, xla.Go, recipe, whole, "8", xla.Options{}, nil)
	walk(t, xla.Go, recipe, large, "8", xla.Options{}, nil, "data.vae_tile=16")
	walk(t, xla.Go, recipe, tiled, "8", xla.Options{}, nil, "data.vae_tile=8")
	same(t, made(t, whole), made(t, large)) // a picture of one tile is encoded whole
	if made(t, whole)["stats.jsonl"] == made(t, tiled)["stats.jsonl"] {
		t.Error("the tiles changed nothing")
	}
	c, err := configs.Load(recipe, "data.vae_tile=12")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	if _, err := train.Open(t.Context(), c, train.Options{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "data.vae_tile: a tile of 12 pixels: the side must be a multiple of 8") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a run directory was made")
	}
}

// A run that an earlier version began, whose recipes lacked a key, goes on where that key has its default, and only there.
func TestRunOfAnEarlierVersion(t *testing.T) {
	recipe, straight, old := with(t, tiny(t), adversarial), t.TempDir(), t.TempDir()
	walk(t, xla.Go, recipe, straight, "8", xla.Options{}, nil)
	walk(t, xla.Go, recipe, old, "8", xla.Options{}, []int{1})
	path := filepath.Join(old, "config.yaml")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := string(raw)
	for _, key := range []string{"  vae_tile: 0\n", "  moments: f32\n", "  offload: none\n", "  target: full\n", "lineage: merged\n", "  carry_optimizer: false\n", "  features: mid\n", "  r1: 0\n", "  r1_sigma: 0.01\n"} { // with the meaning that runs without them have
		if strings.Count(before, key) != 1 {
			t.Fatalf("the recipe does not have %q once: its default may not change, or runs without the key change their meaning", key)
		}
		before = strings.Replace(before, key, "", 1)
	}
	if err := os.WriteFile(path, []byte(before), 0o666); err != nil {
		t.Fatal(err)
	}
	c, err := configs.Load(recipe, "data.vae_tile=8", "train.keep_checkpoints=3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := train.Open(t.Context(), c, train.Options{Dir: old, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "data.vae_tile: 0 → 8") {
		t.Errorf("another value: %v", err)
	}
	walk(t, xla.Go, recipe, old, "8", xla.Options{}, nil, "train.keep_checkpoints=3")
	same(t, made(t, straight), made(t, old))
}
