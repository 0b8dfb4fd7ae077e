package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
)

func init() { register(newLoRA) }

func newLoRA(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "lora",
		Short: "Work on LoRA files: merge them into a model, or extract one from two models.",
		Long:  "Works on LoRA files: merges them into a model, or extracts one from two models.",
		Example: "  fewstep lora merge --model sdxl.safetensors --lora 4step_lora.safetensors --out sdxl_4step.safetensors\n" +
			"  fewstep lora extract --base sdxl.safetensors --tuned juggernaut.safetensors --rank 64 --out juggernaut_lora.safetensors",
	}
	c.AddCommand(newLoRAMerge(a), newLoRAExtract(a))
	return c
}

type mergeOptions struct {
	model, out, to, dtype, config string
	loras                         []string
}

func newLoRAMerge(a *app) *cobra.Command {
	var o mergeOptions
	c := &cobra.Command{
		Use:   "merge",
		Short: "Add LoRA files to a model's UNet.",
		Long: "Adds LoRA files to a model's UNet, in f32, as diffusers' fuse_lora does.\n\n" +
			"Files with kohya's names, over diffusers' or LDM's blocks, diffusers' older names and PEFT's are read. A strength\n" +
			"follows the file after a colon. Parts for text encoders are left out, with a warning.",
		Example: "  fewstep lora merge --model sdxl.safetensors --lora 4step_lora.safetensors --out sdxl_4step.safetensors\n" +
			"  fewstep lora merge --model assets/mini --lora style.safetensors:0.7 --lora 8step_lora.safetensors --out models/merged",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.loraMerge(cmd.Context(), o) },
	}
	f := c.Flags()
	f.StringVarP(&o.model, "model", "m", "", "diffusers directory, single file or UNet file")
	f.StringArrayVarP(&o.loras, "lora", "l", nil, "LoRA file, with :STRENGTH behind where it is not 1; repeat for several")
	f.StringVarP(&o.out, "out", "o", "", "what to write")
	f.StringVar(&o.to, "to", "", "directory, single or unet; without it, as convert decides")
	f.StringVar(&o.dtype, "dtype", "keep", "element type to write: fp16, bf16, f32, or keep")
	f.StringVar(&o.config, "config", "", configUsage)
	return c
}

func (a *app) loraMerge(ctx context.Context, o mergeOptions) error {
	if o.model == "" || o.out == "" || len(o.loras) == 0 {
		return usageErrorf("--model, --lora and --out are needed")
	}
	to, dtype, err := outputForm(o.to, o.out, o.dtype)
	if err != nil {
		return err
	}
	if err := a.localAll(ctx, &o.model); err != nil {
		return err
	}
	b, err := openBundle(o.model, "", o.config)
	if err != nil {
		return err
	}
	defer b.Close()
	unet, err := b.Weights(ldm.UNet)
	if err != nil {
		return err
	}
	base := unet
	known, err := lora.Layers(unet)
	if err != nil {
		return err
	}
	metadata, err := b.Metadata()
	if err != nil {
		return err
	}
	for i, arg := range o.loras {
		path, strength := loraArgument(arg)
		if err := a.localAll(ctx, &path); err != nil {
			return err
		}
		modules, report, err := lora.Read(path, known)
		if err != nil {
			return err
		}
		if n := len(report.TextEncoder); n > 0 {
			a.log.Warn(fmt.Sprintf("%s: %d modules of text encoders are left out", path, n))
		}
		// Between two LoRAs the sum stays in f32; the last one rounds.
		step := weights.F32
		if i == len(o.loras)-1 {
			if step = dtype; step == "" && i > 0 {
				step = typeOf(base)
			}
		}
		if unet, err = lora.Merged(unet, modules, strength, step); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		metadata = withSampler(metadata, report.Metadata)
	}
	if err := b.Replace(ldm.UNet, unet); err != nil {
		return err
	}
	b.ReplaceMetadata(metadata)
	return a.write(b, to, o.out, dtype, "merge")
}

// loraArgument takes FILE or FILE:STRENGTH apart.
func loraArgument(arg string) (path string, strength float64) {
	if i := strings.LastIndexByte(arg, ':'); i >= 0 {
		if s, err := strconv.ParseFloat(arg[i+1:], 64); err == nil && s-s == 0 {
			return arg[:i], s
		}
	}
	return arg, 1
}

// typeOf is the element type that most of a network's values have.
func typeOf(src weights.Source) weights.DType {
	count := map[weights.DType]int{}
	for _, name := range src.Names() {
		if t, err := src.Tensor(name); err == nil && t.DType.Float() {
			count[t.DType] += t.Elements()
		}
	}
	best := weights.F32
	for _, d := range slices.Sorted(maps.Keys(count)) {
		if count[d] > count[best] {
			best = d
		}
	}
	return best
}

// withSampler is metadata with what a LoRA's says about sampling, which holds for the merged model; what that predicts is
// the base's own.
func withSampler(metadata, of map[string]string) map[string]string {
	out := maps.Clone(metadata)
	if out == nil {
		out = map[string]string{}
	}
	for key, value := range of {
		if strings.HasPrefix(key, "fewstep.sampler.") && key != "fewstep.sampler.prediction_type" || key == "modelspec.title" && out[key] == "" {
			out[key] = value
		}
	}
	return out
}

// outputForm decides what a command writes: the form that --to names or that the name of the file asks for, and the
// element type, which is empty for keep.
func outputForm(to, out, dtype string) (bundle.Layout, weights.DType, error) {
	form, ok := layouts[to]
	switch {
	case to == "" && filepath.Ext(out) == ".safetensors":
		form = bundle.SingleFile
	case to == "":
		form = bundle.Directory
	case !ok:
		return "", "", withHint(usageErrorf("unknown form %q", to), "choose directory, single or unet")
	}
	element, ok := exportTypes[dtype]
	if !ok && dtype != "keep" {
		return "", "", withHint(usageErrorf("unknown element type %q", dtype), "choose fp16, bf16, f32 or keep")
	}
	return form, element, nil
}
