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
	"fewstep/model/prediction"
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
		Short: "Add LoRA files to a model's UNet and text encoders.",
		Long: "Adds LoRA files to a model's UNet and text encoders, in f32, as diffusers' fuse_lora does.\n\n" +
			"LoRA, LoCon, LoHa, LoKr, DoRA and full differences are read, with kohya's names over diffusers' or LDM's blocks,\n" +
			"diffusers' older names and PEFT's, and folders of PEFT's, whose adapter_config.json holds the scale. A strength\n" +
			"follows the file after a colon. What is no part of an adapter, such as a bundled embedding, is left out and told.",
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
	metadata, err := b.Metadata()
	if err != nil {
		return err
	}
	merged, err := a.mergeAll(ctx, b, o.loras, dtype)
	if err != nil {
		return err
	}
	for component, src := range merged.components {
		if err := b.Replace(component, src); err != nil {
			return err
		}
	}
	for _, of := range merged.metadata {
		metadata = withSampler(metadata, of)
	}
	b.ReplaceMetadata(metadata)
	return a.write(b, to, o.out, dtype, "merge")
}

// mergedLoRAs are a model's components with LoRAs over them, and the LoRAs' metadata in their order.
type mergedLoRAs struct {
	components map[string]weights.Source
	metadata   []map[string]string
}

// mergeAll puts LoRAs over the components that they change, to be written in a type, empty for each component's own. Between
// two of them, the sum stays in f32.
func (a *app) mergeAll(ctx context.Context, b *bundle.Bundle, loras []string, dtype weights.DType) (*mergedLoRAs, error) {
	m := &mergedLoRAs{components: map[string]weights.Source{}}
	layers, types := lora.Layers{}, map[string]weights.DType{}
	for _, component := range ldm.Components {
		if component == ldm.VAE || !b.Has(component) {
			continue
		}
		src, err := b.Weights(component)
		if err != nil {
			return nil, err
		}
		m.components[component], layers[component], types[component] = src, lora.AllLayers(src), typeOf(src)
	}
	var last = map[string]int{}
	var adapters []*lora.Adapter
	var strengths []float64
	for i, arg := range loras {
		path, strength := loraArgument(arg)
		if err := a.localAll(ctx, &path); err != nil {
			return nil, err
		}
		path, err := lora.File(path)
		if err != nil {
			return nil, err
		}
		adapter, err := lora.Open(path, layers)
		if err != nil {
			return nil, err
		}
		for _, note := range adapter.Notes() {
			a.log.Warn(path + ": " + note)
		}
		if said, _, err := b.Prediction(); err == nil {
			if of := prediction.OfMetadata(adapter.Metadata).Target; of != "" && of != said.Target {
				a.log.Warn(fmt.Sprintf("%s: the LoRA was made for a network that predicts %s, and %s predicts %s", path, of, b.Path, said.Target))
			}
		}
		for component := range layers {
			if adapter.Has(component) {
				last[component] = i
			}
		}
		adapters, strengths, m.metadata = append(adapters, adapter), append(strengths, strength), append(m.metadata, adapter.Metadata)
	}
	for component := range layers {
		if _, changed := last[component]; !changed {
			delete(m.components, component)
			continue
		}
		for i, adapter := range adapters {
			if !adapter.Has(component) {
				continue
			}
			step := weights.F32
			if i == last[component] {
				if step = dtype; step == "" {
					step = types[component]
				}
			}
			if step == weights.F8E4M3 || step == weights.F8E5M2 {
				return nil, withHint(fmt.Errorf("%s: its %s is of %s, which a merge cannot write without losing most of what a LoRA changes", b.Path, component, step), "choose another type with --dtype, such as fp16")
			}
			src, err := adapter.Merged(component, m.components[component], strengths[i], step)
			if err != nil {
				path, _ := loraArgument(loras[i])
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			m.components[component] = src
		}
	}
	return m, nil
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
		return "", "", withHint(usageErrorf("unknown form %q", to), "choose directory, single, unet or unet-ldm")
	}
	element, ok := exportTypes[dtype]
	if !ok && dtype != "keep" {
		return "", "", withHint(usageErrorf("unknown element type %q", dtype), "choose fp16, bf16, f32 or keep")
	}
	return form, element, nil
}
