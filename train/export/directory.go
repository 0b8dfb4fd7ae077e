package export

import (
	"encoding/json"
	"fmt"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// Student is the base model with what a step has made in its UNet's place, in the given type, and with the scheduler's
// settings and the description that the weights need: ready to be written as a diffusers directory, a single file or a
// UNet file. A LoRA is merged into the base's UNet. The caller calls close when it is written.
func Student(d *rundir.Dir, c *configs.Recipe, s distill.Step, to weights.DType) (student *bundle.Bundle, close func(), err error) {
	result, err := d.Result(s.StageName, s.PhaseName)
	if err != nil {
		return nil, nil, err
	}
	f, err := weights.Open(result.Path(ResultFile))
	if err != nil {
		return nil, nil, err
	}
	b, err := bundle.Open(c.ModelPath(), bundle.Options{})
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	close = func() { b.Close(); f.Close() }
	if err := replace(b, f, d, c, s, to); err != nil {
		close()
		return nil, nil, err
	}
	return b, close, nil
}

func replace(b *bundle.Bundle, f *weights.File, d *rundir.Dir, c *configs.Recipe, s distill.Step, to weights.DType) error {
	unet, err := fullUNet(b, f, c, s, to)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	if err := b.Replace(ldm.UNet, unet); err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	scheduler, err := schedulerConfig(b, s)
	if err != nil {
		return err
	}
	b.ReplaceFile("scheduler/scheduler_config.json", scheduler)
	index, err := modelIndex(b, s)
	if err != nil {
		return err
	}
	b.ReplaceFile("model_index.json", index)
	metadata, err := metadataOf(d, c, asFull(s)) // what is written is not an adapter
	if err != nil {
		return err
	}
	b.ReplaceMetadata(metadata)
	return nil
}

// fullUNet gives the whole UNet: the result itself, or the base with the result's adapters merged.
func fullUNet(base *bundle.Bundle, f *weights.File, c *configs.Recipe, s distill.Step, to weights.DType) (weights.Source, error) {
	if !IsLoRA(s) {
		tensors, err := converted(f, to)
		return weights.Collect(tensors), err
	}
	trained, err := lora.OpenTrained(f, c.LoRA.Alpha)
	if err != nil {
		return nil, err
	}
	unet, err := base.Weights(ldm.UNet)
	if err != nil {
		return nil, err
	}
	return trained.Merged(unet, to)
}

// modelIndex is the base's with the scheduler that few-step weights need.
func modelIndex(b *bundle.Bundle, s distill.Step) ([]byte, error) {
	const name = "model_index.json"
	raw, err := b.File(name)
	if err != nil {
		return nil, err
	}
	components := map[string]any{}
	if err := json.Unmarshal(raw, &components); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", b.Path, name, err)
	}
	components["scheduler"] = []string{"diffusers", samplerOf(s).class}
	return indented(components)
}
