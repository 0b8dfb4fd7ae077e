package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"fewstep/model/bundle"
	"fewstep/model/clip"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/bench"
)

const loraNamesUsage = "how the LoRA names the UNet's blocks: sgm, under which every program loads all of SDXL's, or diffusers, as the published few-step LoRAs do"

// isLoRA says whether a file, or the file of a folder that PEFT saved, is a LoRA, of whatever naming.
func isLoRA(path string) bool {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if _, err := os.Stat(filepath.Join(path, "model_index.json")); err == nil {
			return false
		}
	}
	path, err := lora.File(path)
	if err != nil {
		return false // the error is for the one who opens it as a model
	}
	f, err := weights.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return ldm.Identify(f) == ldm.LoRA
}

// convertLoRA writes a LoRA of any naming with kohya's names, which every program loads.
func (a *app) convertLoRA(o convertOptions) error {
	dtype, ok := exportTypes[o.dtype]
	if !ok && o.dtype != "keep" {
		return withHint(usageErrorf("unknown element type %q", o.dtype), "choose fp16, bf16, f32 or keep")
	}
	if o.to != "" {
		return usageErrorf("%s is a LoRA, which is converted to one with kohya's names, not to %s; 'fewstep lora merge' puts it into a model", o.in, o.to)
	}
	blocks, err := lora.ParseBlocks(o.loraNames)
	if err != nil {
		return usageErrorf("--lora-names: %v", err)
	}
	if o.in, err = lora.File(o.in); err != nil {
		return err
	}
	layers, err := adaptable(o.base, o.in)
	if err != nil {
		return err
	}
	adapter, err := lora.Open(o.in, layers)
	if err != nil {
		if o.base == "" {
			return withHint(err, "layers are taken to be SDXL's, or Stable Diffusion 1's or 2's; name another model with --base")
		}
		return err
	}
	if dtype == "" {
		if dtype, err = halfType(o.in); err != nil {
			return err
		}
	}
	for _, note := range adapter.Notes() {
		a.log.Warn(o.in + ": " + note)
	}
	tensors, err := adapter.Tensors(blocks, layers, dtype)
	if err != nil {
		return fmt.Errorf("%s: %w", o.in, err)
	}
	metadata := maps.Clone(adapter.Metadata)
	delete(metadata, weights.KeyHash)
	delete(metadata, "lora_adapter_metadata") // alphas stand in the file
	if err := weights.Save(o.out, tensors, weights.Options{Metadata: metadata, Finite: true}); err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(map[string]any{"out": o.out, "modules": len(adapter.Changes), "from": adapter.Namings, "left_out": slices.Concat(adapter.TextEncoder, adapter.LeftOut)})
	}
	_, err = fmt.Fprintln(a.stdout, o.out)
	return err
}

// adaptable are the layers of a model, or, where none is named, of SDXL or of the Stable Diffusion that a LoRA's text width
// tells.
func adaptable(model, file string) (lora.Layers, error) {
	layers := lora.Layers{}
	if model == "" {
		text := clip.TextConfig{Tower: clip.Tower{HiddenSize: 768, IntermediateSize: 3072, Layers: 12}}
		preset := "sdxl"
		switch contextOf(file) {
		case 768:
			preset = "sd15"
		case 1024:
			preset, text.Tower = "sd21", clip.Tower{HiddenSize: 1024, IntermediateSize: 4096, Layers: 23}
		default:
			layers[ldm.Text2] = modulesOf((&clip.TextConfig{Tower: clip.Tower{HiddenSize: 1280, IntermediateSize: 5120, Layers: 32}, Projected: true}).Tensors())
		}
		layers[ldm.UNet], layers[ldm.Text] = modulesOf(bench.Presets[preset].UNet.Tensors()), modulesOf(text.Tensors())
		return layers, nil
	}
	unet, err := openUNet(model)
	if err != nil {
		return nil, err
	}
	defer unet.Close()
	layers[ldm.UNet] = lora.AllLayers(unet)
	if b, err := bundle.Open(model, bundle.Options{}); err == nil { // a component's folder is no bundle
		defer b.Close()
		for _, component := range []string{ldm.Text, ldm.Text2} {
			if !b.Has(component) {
				continue
			}
			src, err := b.Weights(component)
			if err != nil {
				return nil, err
			}
			layers[component] = lora.AllLayers(src)
		}
	}
	return layers, nil
}

// contextOf is the width of the text that a LoRA's model attends to, 0 where no module tells.
func contextOf(file string) int {
	f, err := weights.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	d, err := lora.Describe(f)
	if err != nil {
		return 0
	}
	return d.Context
}

func modulesOf(tensors map[string][]int) []string {
	var all []weights.Tensor
	for name := range tensors {
		all = append(all, weights.Tensor{Name: name})
	}
	return lora.AllLayers(weights.Collect(all))
}

// halfType is the element type of most of a LoRA's values.
func halfType(path string) (weights.DType, error) {
	f, err := weights.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return typeOf(f), nil
}
