package interop

import (
	"fmt"
	"image"
	_ "image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"fewstep/eval/sample"
	"fewstep/model/pipeline"
	"fewstep/model/prediction"
	"fewstep/model/weights"
	"fewstep/train/tinypipeline"
)

// pythonEnv names a Python with requirements.txt.
const pythonEnv = "FEWSTEP_INTEROP_PYTHON"

const prompt = "a cat on yellow"

// task is one of diffusers_side.py's. A drawing is also one of ours: `fewstep sample` with the same settings.
type task struct {
	Do         string           `json:"do"`
	Out        string           `json:"out"`
	Model      string           `json:"model,omitempty"`
	Single     string           `json:"path,omitempty"`   // a single file in the model's place
	Config     string           `json:"config,omitempty"` // where diffusers finds the single file's configs and tokenizers
	Variant    string           `json:"variant,omitempty"`
	LoRA       string           `json:"lora,omitempty"`
	Kind       string           `json:"kind,omitempty"` // of a save
	Seed       int              `json:"seed,omitempty"` // of a saved LoRA
	Latents    string           `json:"latents,omitempty"`
	Steps      int              `json:"steps,omitempty"`
	Guidance   float64          `json:"guidance,omitempty"`
	Prompt     string           `json:"prompt,omitempty"`
	Negative   *string          `json:"negative,omitempty"`
	Sampler    string           `json:"sampler,omitempty"`
	Tile       int              `json:"tile,omitempty"`
	Conditions map[string][]int `json:"conditions,omitempty"`

	ours   []string // further arguments of `fewstep sample`
	wide   bool     // from the noise of a wide picture
	unlike string   // a task whose picture must be another: what tells the two apart has an effect
	format bool     // about a format or a formality: drawn on the random model only, which is quicker
}

// scene is one model with its pictures.
type scene struct {
	dir, model, fewstep string
	side                *diffusersSide
	formats             bool
}

func TestInterop(t *testing.T) {
	python := os.Getenv(pythonEnv)
	if python == "" {
		t.Skipf("%s is not set: `make interop` sets it", pythonEnv)
	}
	fewstep := filepath.Join(t.TempDir(), "fewstep")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", fewstep, "./cmd/fewstep")
	build.Dir = root(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	side := startDiffusers(t, python)
	mini, tokenizers := filepath.Join(root(t), "assets", "mini"), filepath.Join(root(t), "model", "clip", "testdata")
	t.Run("mini", func(t *testing.T) {
		s := &scene{dir: t.TempDir(), model: mini, fewstep: fewstep, side: side}
		s.written(t)
		s.saved(t)
	})
	t.Run("random", func(t *testing.T) {
		dir := t.TempDir()
		must(t, tinypipeline.Model(filepath.Join(dir, "base"), tokenizers))
		s := &scene{dir: dir, model: filepath.Join(dir, "base"), fewstep: fewstep, side: side, formats: true}
		s.written(t)
		s.saved(t)
	})
	for version, name := range []string{1: "Stable Diffusion 1", 2: "Stable Diffusion 2"} {
		if version == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, tinypipeline.SD(filepath.Join(dir, "base"), tokenizers, version))
			s := &scene{dir: dir, model: filepath.Join(dir, "base"), fewstep: fewstep, side: side, formats: true}
			s.writtenSD(t)
			s.saved(t)
		})
	}
}

// writtenSD is written for Stable Diffusion, which has no micro-conditions and whose empty prompt is a text.
func (s *scene) writtenSD(t *testing.T) {
	made := makeRun(t, s.model, s.path("run"))
	p, err := pipeline.Open(s.model)
	must(t, err)
	for _, wide := range []bool{false, true} {
		size := sizeOf(p, wide)
		must(t, sample.WriteNoise(s.noise(wide), p, size, [][]float32{sample.Noise(p, 5, 0, size)}))
	}
	words := "dog, red"
	single := s.converted(t, s.model, "base.safetensors")
	s.draw(t,
		task{Out: "teacher", Steps: 6, Guidance: 3},
		task{Out: "unguided", Steps: 6, unlike: "teacher"},
		task{Out: "negative", Steps: 6, Guidance: 3, Negative: &words, unlike: "teacher"},
		task{Out: "wide", Steps: 3, Guidance: 2, wide: true},
		task{Out: "ddim", Steps: 6, Guidance: 3, Sampler: "ddim"},
		task{Out: "base file", Steps: 6, Guidance: 3, Single: single, Config: s.model},
		task{Out: "base file, back", Steps: 6, Guidance: 3, Model: s.converted(t, single, "base back")},
		task{Out: "4 steps fp16", Steps: 4, Model: made.directory(t, "4", s.path("4step-fp16"), weights.F16)},
		task{Out: "1 step", Steps: 1, Model: made.directory(t, "1", s.path("1step"), weights.F32)},
		task{Out: "single file", Steps: 4, Single: made.single(t, "4", s.path("4step.safetensors"), weights.F16), Config: s.path("4step-fp16")},
		task{Out: "lora", Steps: 8, LoRA: made.file("8")},
		task{Out: "lora merged", Steps: 8, Model: made.directory(t, "8", s.path("8step"), weights.F16)},
	)
	s.same(t, "teacher.ours.png", "base file, back.ours.png")
	s.sample(t, task{Out: "4 steps file", ours: []string{"--unet", made.file("4")}})
	s.same(t, "4 steps fp16.ours.png", "4 steps file.ours.png")
}

// written is what we write and diffusers reads.
func (s *scene) written(t *testing.T) {
	made := makeRun(t, s.model, s.path("run"))
	p, err := pipeline.Open(s.model)
	must(t, err)
	for _, wide := range []bool{false, true} {
		size := sizeOf(p, wide)
		must(t, sample.WriteNoise(s.noise(wide), p, size, [][]float32{sample.Noise(p, 5, 0, size)}))
	}
	empty, words := "", "dog, red"
	s.draw(t,
		task{Out: "teacher", Steps: 6, Guidance: 3},
		task{Out: "negative", Steps: 6, Guidance: 3, Negative: &words, unlike: "teacher"},
		task{Out: "empty negative", Steps: 6, Guidance: 3, Negative: &empty, unlike: "teacher", format: true},
		task{Out: "conditions", Steps: 6, Guidance: 3, unlike: "teacher",
			ours:       []string{"--original-size", "96x80", "--crop", "4,2", "--negative-original-size", "32x48", "--negative-crop", "0,0", "--negative-target-size", "64x16"},
			Conditions: map[string][]int{"original_size": {80, 96}, "crops_coords_top_left": {2, 4}, "negative_original_size": {48, 32}, "negative_target_size": {16, 64}}},
		task{Out: "wide", Steps: 3, Guidance: 2, wide: true},
		task{Out: "tiled", Steps: 3, Guidance: 2, wide: true, Tile: p.Native().Width / 2, unlike: "wide"},
		task{Out: "ddim", Steps: 6, Guidance: 3, Sampler: "ddim"},
		task{Out: "4 steps", Steps: 4, Model: made.directory(t, "4", s.path("4step"), weights.F32), format: true},
		task{Out: "4 steps fp16", Steps: 4, Model: made.directory(t, "4", s.path("4step-fp16"), weights.F16)},
		task{Out: "1 step", Steps: 1, Model: made.directory(t, "1", s.path("1step"), weights.F32)},
		task{Out: "single file", Steps: 4, Single: made.single(t, "4", s.path("4step.safetensors"), weights.F16), Config: s.path("4step-fp16")},
		task{Out: "single file f32", Steps: 8, Single: made.single(t, "8", s.path("8step.safetensors"), weights.F32), Config: s.path("4step-fp16"), format: true},
		task{Out: "lora", Steps: 8, LoRA: made.file("8")},
		task{Out: "lora, diffusers' names", Steps: 8, LoRA: s.renamed(t, made.file("8")), format: true},
		task{Out: "v", Steps: 6, Guidance: 3, Model: s.predicts(t, "v", false), unlike: "teacher"},
		task{Out: "v, zero SNR", Steps: 6, Guidance: 3, Model: s.predicts(t, "vz", true), unlike: "v"},
		task{Out: "v, zero SNR, ddim", Steps: 6, Model: s.path("vz"), Sampler: "ddim", format: true},
		task{Out: "v, zero SNR, converted", Steps: 6, Guidance: 3, Model: s.converted(t, s.converted(t, s.path("vz"), "vz.safetensors"), "vz back"), format: true},
		task{Out: "lora merged", Steps: 8, Model: made.directory(t, "8", s.path("8step"), weights.F16), format: true},
	)
	// The UNet file in the exports folder is the fp16 directory's, and says its steps itself.
	s.sample(t, task{Out: "4 steps file", ours: []string{"--unet", made.file("4")}})
	s.same(t, "4 steps fp16.ours.png", "4 steps file.ours.png")
}

// saved is what diffusers and peft save and we read.
func (s *scene) saved(t *testing.T) {
	var draws []task
	for _, kind := range []string{"f32", "fp16", "bf16", "variant", "shards"} {
		out := s.path("saved-" + kind)
		s.side.do(t, task{Do: "save", Kind: kind, Model: s.model, Out: out})
		d := task{Out: "saved " + kind, Model: out, Steps: 2, format: kind != "f32"}
		if kind == "variant" {
			d.Variant = "fp16"
		}
		draws = append(draws, d)
	}
	// from_single_file(…).save_pretrained(…), of a file that we wrote.
	single, again := s.converted(t, s.model, "again.safetensors"), s.path("saved-single")
	s.side.do(t, task{Do: "save", Kind: "single", Single: single, Config: s.model, Out: again})
	draws = append(draws, task{Out: "saved from a single file", Model: again, Steps: 2})
	must(t, os.MkdirAll(s.path("lora"), 0o777))
	for i, kind := range []string{"peft", "diffusers", "kohya"} {
		out := s.path("lora/" + kind + ".safetensors")
		s.side.do(t, task{Do: "save", Kind: kind, Seed: i + 1, Model: s.model, Out: out})
		draws = append(draws, task{Out: "saved " + kind, LoRA: out, Steps: 2, unlike: "saved f32", format: kind != "peft"})
	}
	s.draw(t, draws...)
}

// run runs fewstep.
func (s *scene) run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(s.fewstep, args...).CombinedOutput(); err != nil {
		t.Fatalf("fewstep %q: %v\n%s", args, err, out)
	}
}

// converted is a model in another form.
func (s *scene) converted(t *testing.T, model, name string) string {
	t.Helper()
	s.run(t, "convert", model, s.path(name))
	return s.path(name)
}

// renamed is a LoRA with diffusers' block names.
func (s *scene) renamed(t *testing.T, lora string) string {
	t.Helper()
	out := s.path("renamed.safetensors")
	s.run(t, "convert", lora, out, "--base", s.model, "--lora-names", "diffusers")
	return out
}

// predicts is the model as if it predicted v.
func (s *scene) predicts(t *testing.T, name string, zeroSNR bool) string {
	t.Helper()
	out := s.path(name)
	must(t, os.CopyFS(out, os.DirFS(s.model)))
	raw, err := prediction.Type{Target: prediction.V, ZeroSNR: zeroSNR}.Schedule(read(t, filepath.Join(out, "scheduler", "scheduler_config.json")))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(out, "scheduler", "scheduler_config.json"), raw, 0o666))
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	return raw
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

func (s *scene) noise(wide bool) string {
	if wide {
		return s.path("noise-wide.safetensors")
	}
	return s.path("noise.safetensors")
}

// sizeOf is a model's own size, or a wide one. diffusers wants multiples of 8, whatever the VAE's factor.
func sizeOf(p *pipeline.Pipeline, wide bool) pipeline.Size {
	size := p.Native()
	if wide {
		size.Width, size.Height = 2*size.Width, size.Height+max(8, p.Multiple())
	}
	return size
}

// complete fills in what most drawings share.
func (s *scene) complete(k task) task {
	k.Do, k.Prompt = "draw", prompt
	if k.Model == "" && k.Single == "" {
		k.Model = s.model
	}
	k.Latents = s.noise(k.wide)
	return k
}

// draw draws every task on both sides, into "<out>.ours.png" and "<out>.theirs.png", and compares.
func (s *scene) draw(t *testing.T, tasks ...task) {
	t.Helper()
	for _, k := range tasks {
		if k.format && !s.formats {
			continue
		}
		s.sample(t, k)
		theirs := s.complete(k)
		theirs.Out = s.path(k.Out + ".theirs.png")
		s.side.do(t, theirs)
		s.same(t, k.Out+".ours.png", k.Out+".theirs.png")
		if k.unlike != "" && furthest(s.pixels(t, k.Out+".theirs.png"), s.pixels(t, k.unlike+".theirs.png")) < 2 {
			t.Errorf("%q and %q are the same picture", k.Out, k.unlike)
		}
	}
}

// sample draws a task with `fewstep sample`.
func (s *scene) sample(t *testing.T, k task) {
	t.Helper()
	k = s.complete(k)
	if k.Single != "" {
		k.Model = k.Single
	}
	args := []string{"sample", "--backend", "cpu", "--model", k.Model, "--prompt", k.Prompt, "--latents", k.Latents, "--each", "--out", s.path(k.Out + ".png")}
	if k.wide {
		p, err := pipeline.Open(k.Model)
		must(t, err)
		size := sizeOf(p, true)
		args = append(args, "--width", fmt.Sprint(size.Width), "--height", fmt.Sprint(size.Height))
	}
	if k.LoRA != "" {
		args = append(args, "--lora", k.LoRA)
	}
	if k.Steps > 0 {
		args = append(args, "--steps", fmt.Sprint(k.Steps), "--guidance", fmt.Sprint(k.Guidance))
	}
	if k.Negative != nil {
		args = append(args, "--negative", *k.Negative)
	}
	if k.Sampler != "" {
		args = append(args, "--sampler", k.Sampler)
	}
	if k.Tile > 0 {
		args = append(args, "--tile", fmt.Sprint(k.Tile))
	}
	cmd := exec.Command(s.fewstep, append(args, k.ours...)...)
	// Compiling is most of the time, and the numbers hardly depend on how hard the compiler tries.
	cmd.Env = append(os.Environ(), "XLA_FLAGS=--xla_backend_optimization_level=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: fewstep %q: %v\n%s", k.Out, args, err, out)
	}
	must(t, os.Rename(s.path(k.Out+"-0000.png"), s.path(k.Out+".ours.png")))
}

// same fails unless two pictures agree to one level of 255 everywhere. A picture without detail proves nothing.
func (s *scene) same(t *testing.T, one, two string) {
	t.Helper()
	a, b := s.pixels(t, one), s.pixels(t, two)
	if len(a) != len(b) {
		t.Errorf("%s has %d values, %s %d", one, len(a), two, len(b))
		return
	}
	sum, squares, inside := 0.0, 0.0, 0
	for _, v := range b {
		sum, squares = sum+float64(v), squares+float64(v)*float64(v)
		if v > 0 && v < 255 {
			inside++
		}
	}
	n := float64(len(b))
	deviation, far := math.Sqrt(squares/n-sum/n*sum/n), furthest(a, b)
	t.Logf("%-28s largest difference %d of 255, deviation %.0f, %.0f %% inside the range", one, far, deviation, 100*float64(inside)/n)
	if far > 1 {
		t.Errorf("%s and %s differ by up to %d levels", one, two, far)
	}
	if deviation < 8 || float64(inside) < n/8 {
		t.Errorf("%s has a deviation of %.1f levels and %.0f %% of its values inside the range: too flat to compare", two, deviation, 100*float64(inside)/n)
	}
}

func furthest(a, b []int) (d int) {
	for i := range a {
		d = max(d, a[i]-b[i], b[i]-a[i])
	}
	return d
}

func (s *scene) pixels(t *testing.T, name string) (v []int) {
	t.Helper()
	f, err := os.Open(s.path(name))
	must(t, err)
	defer f.Close()
	img, _, err := image.Decode(f)
	must(t, err)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			r, g, b, _ := img.At(x, y).RGBA()
			v = append(v, int(r>>8), int(g>>8), int(b>>8))
		}
	}
	return v
}
