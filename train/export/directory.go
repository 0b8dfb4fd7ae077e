package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/distill"
	"fewstep/internal/atomicfile"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// Directory writes a whole diffusers directory with a step's student as its UNet: the base model's other components,
// the weights in the given type, and the scheduler's settings. A LoRA is merged into the base's UNet. out must not
// exist, or be an empty folder; it appears complete or not at all.
func Directory(d *rundir.Dir, c *distill.Config, s distill.Step, out string, to weights.DType) (err error) {
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is there already and not empty: choose a new folder", out)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	result, err := d.Result(s.StageName, s.PhaseName)
	if err != nil {
		return err
	}
	f, err := weights.Open(result.Path(ResultFile))
	if err != nil {
		return err
	}
	defer f.Close()
	out = filepath.Clean(out)
	if err := os.MkdirAll(filepath.Dir(out), 0o777); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(out), ".fewstep-tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	model := c.ModelPath()
	if err := copyComponents(model, temp); err != nil {
		return err
	}
	scheduler, err := schedulerConfig(model, s.Prediction)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(temp, "scheduler", "scheduler_config.json"), scheduler); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(model, "unet", "config.json"), filepath.Join(temp, "unet", "config.json")); err != nil {
		return err
	}
	if err := writeUNet(d, c, s, f, filepath.Join(temp, "unet", "diffusion_pytorch_model.safetensors"), to); err != nil {
		return err
	}
	if err := os.Remove(out); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(temp, out)
}

func writeUNet(d *rundir.Dir, c *distill.Config, s distill.Step, f *weights.File, path string, to weights.DType) error {
	tensors, close, err := fullTensors(c, s, f, to)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	defer close()
	full := s
	full.Target = distill.TargetFull // what is written is not an adapter
	metadata, err := metadataOf(d, c, full, tensors)
	if err != nil {
		return err
	}
	return weights.Write(path, tensors, metadata)
}

// fullTensors gives the whole UNet: the result itself, or the base with the result's adapters merged.
func fullTensors(c *distill.Config, s distill.Step, f *weights.File, to weights.DType) ([]weights.Tensor, func(), error) {
	if !IsLoRA(s) {
		t, err := converted(f, to)
		return t, func() {}, err
	}
	modules, err := Modules(f, c.LoRA.Alpha)
	if err != nil {
		return nil, nil, err
	}
	base, err := weights.OpenModel(filepath.Join(c.ModelPath(), "unet"))
	if err != nil {
		return nil, nil, err
	}
	merged, err := lora.Merged(base, modules, 1, to)
	if err == nil {
		var tensors []weights.Tensor
		if tensors, err = converted(merged, to); err == nil {
			return tensors, func() { base.Close() }, nil
		}
	}
	base.Close()
	return nil, nil, err
}

// copyComponents copies model_index.json and every component it names but UNet and scheduler. Of a component with
// several weight files only the one that this project reads is copied.
func copyComponents(model, to string) error {
	index := filepath.Join(model, "model_index.json")
	raw, err := os.ReadFile(index)
	if err != nil {
		return err
	}
	components := map[string]any{}
	if err := json.Unmarshal(raw, &components); err != nil {
		return fmt.Errorf("%s: %w", index, err)
	}
	components["scheduler"] = []string{"diffusers", "EulerDiscreteScheduler"}
	changed, err := indented(components)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(to, "model_index.json"), changed); err != nil {
		return err
	}
	for name, class := range components {
		if pair, ok := class.([]any); !ok || len(pair) != 2 || pair[0] == nil || name == "unet" || name == "scheduler" {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%s: the component %q lies outside the model", index, name)
		}
		if err := copyComponent(filepath.Join(model, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

var weightEndings = []string{".safetensors", ".bin", ".pt", ".ckpt", ".onnx", ".onnx_data", ".msgpack", ".xml"}

func copyComponent(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	weightFiles, err := weights.ModelFiles(from)
	if err != nil {
		weightFiles = nil // a tokenizer
	}
	for _, path := range weightFiles {
		name := filepath.Base(path)
		if len(weightFiles) == 1 {
			name = strings.Replace(name, ".fp16.", ".", 1) // loaders ask for a variant by name
		}
		if err := copyFile(path, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || strings.Contains(name, ".index.") || slices.Contains(weightEndings, filepath.Ext(name)) {
			continue
		}
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	return atomicfile.Write(to, func(w io.Writer) error {
		_, err := io.Copy(w, in)
		return err
	})
}
