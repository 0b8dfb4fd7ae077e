package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/bench"
)

// isLoRA says whether a file is a LoRA, of whatever naming.
func isLoRA(path string) bool {
	f, err := weights.Open(path)
	if err != nil {
		return false // the error is for the one who opens it as a model
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
	known, err := adaptable(o.base)
	if err != nil {
		return err
	}
	modules, report, err := lora.Read(o.in, known)
	if err != nil {
		if o.base == "" {
			return withHint(err, "layers are taken to be SDXL's; name another model with --base")
		}
		return err
	}
	if dtype == "" {
		if dtype, err = halfType(o.in); err != nil {
			return err
		}
	}
	if n := len(report.TextEncoder); n > 0 {
		a.log.Warn(fmt.Sprintf("%s: %d modules of text encoders are left out", o.in, n))
	}
	tensors, err := lora.Tensors(modules, dtype)
	if err != nil {
		return err
	}
	metadata := maps.Clone(report.Metadata)
	delete(metadata, weights.KeyHash)
	delete(metadata, "lora_adapter_metadata") // alphas stand in the file
	if err := weights.Save(o.out, tensors, weights.Options{Metadata: metadata, Finite: true}); err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(map[string]any{"out": o.out, "modules": len(modules), "from": report.Namings, "left_out": report.TextEncoder})
	}
	_, err = fmt.Fprintln(a.stdout, o.out)
	return err
}

// adaptable are the layers of a model's UNet, or of SDXL's where none is named.
func adaptable(model string) ([]string, error) {
	if model != "" {
		unet, err := openUNet(model)
		if err != nil {
			return nil, err
		}
		defer unet.Close()
		return lora.Layers(unet)
	}
	var paths []string
	for name, shape := range bench.Presets["sdxl"].UNet.Tensors() {
		if path, ok := strings.CutSuffix(name, ".weight"); ok && len(shape) > 1 {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths, nil
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
