package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/bundle"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/export"
	"fewstep/train/rundir"
)

const (
	loraRank  = 4
	loraAlpha = 8
)

// students are a run's finished phases: a LoRA of 8 steps, a UNet of 4 and the x0-predicting UNet of one step.
type students struct {
	run    *rundir.Dir
	config *configs.Recipe
	steps  map[string]distill.Step // "8", "4", "1"
}

// makeRun gives a model students whose weights are moved a little from the base's, as training would.
func makeRun(t *testing.T, model, dir string) *students {
	t.Helper()
	p, err := pipeline.Open(model)
	must(t, err)
	rt, err := xla.Open(xla.Go, xla.Options{})
	must(t, err)
	defer rt.Close()
	full, err := p.UNetSpecs(rt.Backend, nil)
	must(t, err)
	adapted, err := p.UNetSpecs(rt.Backend, &nn.LoRA{Rank: loraRank, Scale: loraAlpha / loraRank})
	must(t, err)
	values, err := pipeline.Read(model, "unet")
	must(t, err)

	var adapters, moved []weights.Tensor
	for i, s := range adapted {
		if !engine.IsLoRA(s.Name) {
			continue
		}
		v := make([]float32, s.Size())
		distill.Normal(v, 1, distill.Init, int64(i))
		scale := 0.1 // of W + alpha/rank·up∘down
		if strings.HasSuffix(s.Name, "lora_down") {
			scale = 1 / float64(s.Size()/loraRank)
		}
		for k := range v {
			v[k] *= float32(scale)
		}
		adapters = append(adapters, weights.FromFloat32(s.Name, s.Dims, v, weights.F32))
	}
	for i, s := range full {
		v := make([]float32, s.Size())
		distill.Normal(v, 2, distill.Init, int64(i))
		for k, w := range values[s.Name] {
			v[k] = w * (1 + 0.1*v[k])
		}
		moved = append(moved, weights.FromFloat32(s.Name, s.Dims, v, weights.F32))
	}

	c, err := configs.Parse([]byte(fmt.Sprintf("name: interop\nmodel: %s\ndata: {source: x.parquet, resolution: %d}\n"+
		"lora: {rank: %d, alpha: %d}\nstages: lightning\n", model, p.Native().Width, loraRank, loraAlpha)), "interop.yaml")
	must(t, err)
	d, err := rundir.Open(dir, c.Resolved(), rundir.Lineage{BaseWeights: "ba5e"})
	must(t, err)
	t.Cleanup(func() { d.Close() })
	made := &students{d, c, map[string]distill.Step{}}
	plan, err := distill.Plan(c, distill.Epsilon)
	must(t, err)
	for _, s := range plan {
		tensors, ok := map[string][]weights.Tensor{"8/lora-uncond": adapters, "4/full-uncond": moved, "1/full-uncond": moved}[s.StageName+"/"+s.PhaseName]
		if !ok {
			continue
		}
		must(t, d.SaveResult(rundir.Point{Stage: s.StageName, Phase: s.PhaseName}, nil, rundir.File{Name: export.ResultFile,
			WritePath: func(path string) error { return weights.Write(path, tensors, nil) }}))
		must(t, export.Artifact(d, c, s))
		made.steps[s.StageName] = s
	}
	return made
}

func (s *students) file(stage string) string {
	return s.run.ArtifactPath(rundir.Exports, export.Name(s.steps[stage]))
}

// directory exports a student as a diffusers directory.
func (s *students) directory(t *testing.T, stage, out string, to weights.DType) string {
	t.Helper()
	return s.export(t, stage, to, func(b *bundle.Bundle) error { return b.WriteDirectory(out, bundle.WriteOptions{}) }, out)
}

// single exports a student as a single file.
func (s *students) single(t *testing.T, stage, out string, to weights.DType) string {
	t.Helper()
	return s.export(t, stage, to, func(b *bundle.Bundle) error { return b.WriteSingleFile(out, bundle.WriteOptions{DType: to}) }, out)
}

func (s *students) export(t *testing.T, stage string, to weights.DType, write func(*bundle.Bundle) error, out string) string {
	t.Helper()
	student, close, err := export.Student(s.run, s.config, s.steps[stage], to)
	must(t, err)
	defer close()
	must(t, write(student))
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// root is the repository's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	must(t, err)
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}
