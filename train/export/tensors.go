package export

import (
	"fmt"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
)

// tensorsOf gives the tensors of an export file, converted one at a time while they are written.
func tensorsOf(f weights.Source, c *configs.Recipe, s distill.Step, blocks lora.Blocks, to weights.DType) ([]weights.Tensor, error) {
	if IsLoRA(s) {
		base, err := bundle.Open(c.ModelPath(), bundle.Options{})
		if err != nil {
			return nil, err
		}
		defer base.Close()
		unet, err := base.Weights(ldm.UNet)
		if err != nil {
			return nil, err
		}
		trained, err := lora.OpenTrained(f, c.LoRA.Alpha)
		if err != nil {
			return nil, err
		}
		modules, err := trained.Modules()
		if err != nil {
			return nil, err
		}
		return lora.Tensors(modules, blocks, lora.AllLayers(unet), to)
	}
	return converted(f, to)
}

// converted gives every tensor of f in another element type.
func converted(f weights.Source, to weights.DType) ([]weights.Tensor, error) {
	var out []weights.Tensor
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, err
		}
		if engine.IsLoRA(name) {
			return nil, fmt.Errorf("tensor %s: an adapter among the weights of a full model", name)
		}
		out = append(out, t.As(to))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it holds no tensors")
	}
	return out, nil
}
