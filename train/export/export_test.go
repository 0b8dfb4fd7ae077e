package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
	"fewstep/train/rundir"
)

const (
	linear = "mid_block.attentions.0.proj_in"
	kernel = "mid_block.resnets.0.conv1"
	other  = "conv_in"
)

var shapes = map[string][]int{linear: {6, 4}, kernel: {5, 3, 3, 3}, other: {4, 2, 3, 3}}

// fakeRun makes a base model of three layers and a run whose 8-step stage has made a LoRA (scale 2 / 4) and its
// merge, with the products done here, by hand.
func fakeRun(t *testing.T) (*rundir.Dir, *configs.Recipe) {
	t.Helper()
	model := filepath.Join(t.TempDir(), "base")
	must(t, os.CopyFS(model, os.DirFS("../../assets/mini")))
	must(t, os.RemoveAll(filepath.Join(model, "clip")))
	rng := rand.New(rand.NewPCG(3, 4))
	normal := func(n int) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(rng.NormFloat64())
		}
		return v
	}
	var base, full, adapters []weights.Tensor
	for _, layer := range []string{linear, kernel, other} {
		shape := shapes[layer]
		inner := 1
		for _, d := range shape[1:] {
			inner *= d
		}
		w := normal(shape[0] * inner)
		base = append(base, weights.FromFloat32(layer+".weight", shape, slices.Clone(w), weights.F32))
		if layer != other {
			const rank = 4
			down, up := normal(rank*inner), normal(shape[0]*rank)
			for o := range shape[0] {
				for i := range inner {
					sum := 0.0
					for r := range rank {
						sum += float64(up[o*rank+r]) * float64(down[r*inner+i])
					}
					w[o*inner+i] += float32(sum * 2 / rank)
				}
			}
			downShape, upShape := append([]int{rank}, shape[1:]...), []int{shape[0], rank}
			if len(shape) == 4 {
				upShape = append(upShape, 1, 1)
			}
			adapters = append(adapters, weights.FromFloat32(layer+".weight.lora_down", downShape, down, weights.F32),
				weights.FromFloat32(layer+".weight.lora_up", upShape, up, weights.F32))
		}
		full = append(full, weights.FromFloat32(layer+".weight", shape, w, weights.F32))
	}
	must(t, weights.Write(filepath.Join(model, "unet", "diffusion_pytorch_model.safetensors"), base, nil))

	c, err := configs.Parse([]byte(fmt.Sprintf("name: test\nmodel: %s\ndata: {source: x.parquet, resolution: 64}\n"+
		"lora: {rank: 4, alpha: 2}\nstages: lightning\n", model)), "test.yaml")
	must(t, err)
	d, err := rundir.Open(filepath.Join(t.TempDir(), "run"), c.Resolved(), rundir.Lineage{BaseWeights: "ba5e"})
	must(t, err)
	t.Cleanup(func() { d.Close() })
	for phase, tensors := range map[string][]weights.Tensor{"lora-uncond": adapters, "merge": full} {
		must(t, d.SaveResult(rundir.Point{Stage: "8", Phase: phase}, nil, rundir.File{Name: ResultFile,
			WritePath: func(path string) error { return weights.Write(path, tensors, nil) }}))
	}
	must(t, d.SaveResult(rundir.Point{Stage: "1", Phase: "full-uncond"}, nil, rundir.File{Name: ResultFile,
		WritePath: func(path string) error { return weights.Write(path, full, nil) }}))
	return d, c
}

func stepOf(t *testing.T, c *configs.Recipe, stage, phase string) distill.Step {
	t.Helper()
	steps, err := distill.Plan(c, distill.Epsilon)
	must(t, err)
	for _, s := range steps {
		if s.StageName == stage && s.PhaseName == phase {
			return s
		}
	}
	t.Fatalf("no phase %s/%s", stage, phase)
	return distill.Step{}
}

// The exported LoRA, merged onto the base, is the merge phase's UNet within the rounding of fp16.
func TestLoRAEqualsMerge(t *testing.T) {
	d, c := fakeRun(t)
	for _, phase := range []string{"lora-uncond", "merge"} {
		must(t, Artifact(d, c, stepOf(t, c, "8", phase)))
	}
	modules, report, err := lora.Read(d.ArtifactPath(rundir.Exports, "8step_lora.safetensors"), []string{linear, kernel, other})
	must(t, err)
	if len(modules) != 2 || !slices.Equal(report.Namings, []lora.Naming{lora.Kohya}) || report.MissingAlpha != 0 {
		t.Fatalf("%d modules, %+v", len(modules), report)
	}
	base, err := weights.OpenModel(filepath.Join(c.ModelPath(), "unet"))
	must(t, err)
	defer base.Close()
	full, err := weights.Open(d.ArtifactPath(rundir.Exports, "8step_unet.safetensors"))
	must(t, err)
	defer full.Close()
	if len(full.Names()) != 3 {
		t.Fatalf("tensors %v", full.Names())
	}
	for layer, shape := range shapes {
		want := weightstest.Floats(t, full, layer+".weight")
		got := weightstest.Floats(t, base, layer+".weight")
		for _, m := range modules {
			if m.Path == layer {
				must(t, lora.Merge(got, shape, m))
			}
		}
		for i := range want {
			if diff := math.Abs(float64(want[i] - got[i])); diff > 8e-3*max(1, math.Abs(float64(want[i]))) {
				t.Fatalf("%s[%d]: merged %g, full %g", layer, i, got[i], want[i])
			}
		}
	}
}

func TestFilesAndMetadata(t *testing.T) {
	d, c := fakeRun(t)
	steps, err := distill.Plan(c, distill.Epsilon)
	must(t, err)
	owed, err := Missing(d, steps)
	must(t, err)
	var names []string
	for _, s := range owed { // the merge is not final in its stage: full-uncond is
		names = append(names, Name(s))
		must(t, Artifact(d, c, s))
	}
	if !slices.Equal(names, []string{"8step_lora.safetensors", "1step_unet_x0.safetensors"}) {
		t.Errorf("owed %v", names)
	}
	have, err := d.Artifacts(rundir.Exports)
	must(t, err)
	want := []string{"1step_scheduler_config.json", "1step_unet_comfyui.json", "1step_unet_x0.safetensors",
		"8step_lora.safetensors", "8step_lora_comfyui.json", "8step_scheduler_config.json"}
	if !slices.Equal(have, want) {
		t.Errorf("exports %v, want %v", have, want)
	}
	if owed, err := Missing(d, steps); err != nil || len(owed) != 0 {
		t.Errorf("still owed: %v, %v", owed, err)
	}
	must(t, os.Remove(d.ArtifactPath(rundir.Exports, "8step_lora.safetensors")))
	if owed, err := Missing(d, steps); err != nil || len(owed) != 1 || Name(owed[0]) != "8step_lora.safetensors" {
		t.Errorf("a deleted file is not owed: %v, %v", owed, err)
	}
	must(t, Artifact(d, c, owed[0]))

	f, err := weights.Open(d.ArtifactPath(rundir.Exports, "1step_unet_x0.safetensors"))
	must(t, err)
	defer f.Close()
	spec, ok := weights.ParseModelSpec(f.Metadata())
	if !ok || spec.SamplerSteps != 1 || spec.PredictionType != "sample" || spec.Spacing != "trailing" || spec.GuidanceScale != 0 ||
		spec.BaseSHA256 != "ba5e" || spec.ConfigSHA256 != c.Hash() || spec.Stage != "1/full-uncond" || !spec.Date.IsZero() ||
		spec.Architecture != "stable-diffusion-xl-family" {
		t.Errorf("metadata %+v", spec)
	}
	var scheduler map[string]any
	raw, err := os.ReadFile(d.ArtifactPath(rundir.Exports, "1step_scheduler_config.json"))
	must(t, err)
	must(t, json.Unmarshal(raw, &scheduler))
	if scheduler["prediction_type"] != "sample" || scheduler["timestep_spacing"] != "trailing" || scheduler["_class_name"] != "EulerDiscreteScheduler" || scheduler["beta_end"] != 0.012 {
		t.Errorf("scheduler %s", raw)
	}
}

// A consistency model is drawn with LCM's sampler, and its files say so.
func TestConsistencyModelIsDrawnByLCM(t *testing.T) {
	b, err := bundle.Open("../../assets/mini", bundle.Options{})
	must(t, err)
	defer b.Close()
	s := distill.Step{StudentSteps: 4, Sampler: "lcm", Original: 50}
	var scheduler, index map[string]any
	raw, err := schedulerConfig(b, s)
	must(t, err)
	must(t, json.Unmarshal(raw, &scheduler))
	if scheduler["_class_name"] != "LCMScheduler" || scheduler["original_inference_steps"] != 50.0 || scheduler["timestep_spacing"] != "leading" || scheduler["prediction_type"] != "epsilon" {
		t.Errorf("scheduler %s", raw)
	}
	raw, err = modelIndex(b, s)
	must(t, err)
	must(t, json.Unmarshal(raw, &index))
	if class := index["scheduler"].([]any)[1]; class != "LCMScheduler" {
		t.Errorf("the pipeline's scheduler is %v", class)
	}
	c := configs.Default()
	var nodes map[string]struct {
		Class  string `json:"class_type"`
		Inputs map[string]any
	}
	must(t, json.Unmarshal(workflow(basis{config: c, published: "x"}, s, "x.safetensors", false), &nodes))
	if nodes["7"].Inputs["sampler_name"] != "lcm" || nodes["3"].Inputs["sampling"] != "lcm" || nodes["7"].Inputs["steps"] != 4.0 {
		t.Errorf("workflow %+v", nodes)
	}
}

// ComfyUI samples one-step weights as x0 predictions and others as they are.
func TestWorkflow(t *testing.T) {
	_, c := fakeRun(t)
	b := basis{config: c}
	for _, want := range []struct {
		stage, phase, loader string
		x0                   bool
	}{{"8", "lora-uncond", "LoraLoaderModelOnly", false}, {"8", "full-uncond", "UNETLoader", false}, {"1", "full-uncond", "UNETLoader", true}} {
		s := stepOf(t, c, want.stage, want.phase)
		var nodes map[string]node
		must(t, json.Unmarshal(workflow(b, s, Name(s), false), &nodes))
		if nodes["2"].Class != want.loader || (nodes["3"].Class == "ModelSamplingDiscrete") != want.x0 {
			t.Errorf("%s/%s: %v", want.stage, want.phase, nodes)
		}
		k := nodes["7"].Inputs
		if k["scheduler"] != "sgm_uniform" || k["sampler_name"] != "euler" || k["cfg"] != 1.0 || k["steps"] != float64(s.StudentSteps) {
			t.Errorf("%s/%s: %v", want.stage, want.phase, k)
		}
		for id, n := range nodes {
			for name, v := range n.Inputs {
				if l, ok := v.([]any); ok && nodes[l[0].(string)].Class == "" {
					t.Errorf("node %s: %s refers to the missing node %v", id, name, l[0])
				}
			}
		}
	}
}

func TestExportsRepeat(t *testing.T) {
	d, c := fakeRun(t)
	s := stepOf(t, c, "8", "lora-uncond")
	read := func() []byte {
		must(t, Artifact(d, c, s))
		raw, err := os.ReadFile(d.ArtifactPath(rundir.Exports, Name(s)))
		must(t, err)
		return raw
	}
	if !bytes.Equal(read(), read()) {
		t.Error("the same result gave two different files")
	}
}

func TestDirectory(t *testing.T) {
	d, c := fakeRun(t)
	out := filepath.Join(t.TempDir(), "deep", "8step")
	student, close, err := Student(d, c, stepOf(t, c, "8", "lora-uncond"), weights.F32)
	must(t, err)
	defer close()
	must(t, student.WriteDirectory(out, bundle.WriteOptions{}))
	got, err := weights.OpenModel(filepath.Join(out, "unet"))
	must(t, err)
	defer got.Close()
	result, err := d.Result("8", "merge")
	must(t, err)
	want, err := weights.Open(result.Path(ResultFile))
	must(t, err)
	defer want.Close()
	for _, name := range want.Names() {
		a, b := weightstest.Floats(t, want, name), weightstest.Floats(t, got, name)
		for i := range a {
			if math.Abs(float64(a[i]-b[i])) > 1e-5 {
				t.Fatalf("%s[%d]: %g, want %g", name, i, b[i], a[i])
			}
		}
	}
	for _, name := range []string{"model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "tokenizer/merges.txt"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	if err := student.WriteDirectory(out, bundle.WriteOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("overwriting a directory: %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(out), ".fewstep-tmp-*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A release has, of each step count, the whole model, its UNet and, where there is one, the LoRA, all of which say how to
// sample with them.
func TestRelease(t *testing.T) {
	d, c := fakeRun(t)
	steps, err := distill.Plan(c, distill.Epsilon)
	must(t, err)
	out := filepath.Join(t.TempDir(), "release")
	files, err := Release(d, c, steps, "mini", out, Options{DType: weights.F16}, nil)
	must(t, err)
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(f))
	}
	want := []string{"mini_8step_lora.safetensors", "mini_8step_lora_comfyui.json", "mini_8step.safetensors", "mini_8step_unet.safetensors", "mini_8step_scheduler_config.json",
		"mini_8step_comfyui.json", "mini_8step_unet_comfyui.json", "mini_1step_x0.safetensors", "mini_1step_unet_x0.safetensors", "mini_1step_scheduler_config.json",
		"mini_1step_x0_comfyui.json", "mini_1step_unet_x0_comfyui.json"}
	if !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	for _, path := range files {
		if filepath.Ext(path) == ".json" {
			continue
		}
		f, err := weights.Open(path)
		must(t, err)
		spec, _ := weights.ParseModelSpec(f.Metadata())
		if n := fmt.Sprintf("_%dstep", spec.SamplerSteps); !strings.Contains(path, n) || spec.DataHash == "" || (spec.PredictionType == "sample") != strings.Contains(path, "_x0") {
			t.Errorf("%s: %+v", path, spec)
		}
		f.Close()
	}
	single, err := weights.Open(filepath.Join(out, "mini_8step.safetensors"))
	must(t, err)
	defer single.Close()
	unet, err := weights.Open(filepath.Join(out, "mini_8step_unet.safetensors"))
	must(t, err)
	defer unet.Close()
	if a, b := weightstest.Floats(t, single, "model.diffusion_model.middle_block.1.proj_in.weight"), weightstest.Floats(t, unet, linear+".weight"); !slices.Equal(a, b) {
		t.Errorf("%v and %v", a[:3], b[:3])
	}
	var nodes map[string]node
	raw, err := os.ReadFile(filepath.Join(out, "mini_1step_x0_comfyui.json"))
	must(t, err)
	must(t, json.Unmarshal(raw, &nodes))
	if nodes["1"].Inputs["ckpt_name"] != "mini_1step_x0.safetensors" || nodes["3"].Class != "ModelSamplingDiscrete" || nodes["2"].Class != "" {
		t.Errorf("workflow %s", raw)
	}
}

func TestBadResults(t *testing.T) {
	d, c := fakeRun(t)
	if err := Artifact(d, c, stepOf(t, c, "4", "lora-uncond")); err == nil || !strings.Contains(err.Error(), "no result of stage 4") {
		t.Errorf("a phase without result: %v", err)
	}
	big := weights.FromFloat32("x.weight", []int{1}, []float32{1e6}, weights.F32)
	half := weights.FromFloat32("y.weight.lora_up", []int{2, 1}, []float32{1, 2}, weights.F32)
	for phase, bad := range map[string]struct {
		tensor weights.Tensor
		want   string
	}{"full-uncond": {big, "x.weight"}, "lora-uncond": {half, "lora_down"}} {
		must(t, d.SaveResult(rundir.Point{Stage: "2", Phase: phase}, nil, rundir.File{Name: ResultFile,
			WritePath: func(path string) error { return weights.Write(path, []weights.Tensor{bad.tensor}, nil) }}))
		s := stepOf(t, c, "2", phase)
		if err := Artifact(d, c, s); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", phase, err)
		}
		if _, err := os.Stat(d.ArtifactPath(rundir.Exports, Name(s))); err == nil {
			t.Errorf("%s: half-written %s", phase, Name(s))
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
