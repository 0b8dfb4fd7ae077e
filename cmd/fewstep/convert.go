package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fewstep/model/bundle"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/monitor"
)

func init() { register(newConvert) }

type convertOptions struct {
	in, out, to, dtype, base, config string
	loraNames                        string
}

const configUsage = "folder with config.json files and tokenizers as in a diffusers directory, for a file that lacks them and is not like SDXL"

func newConvert(a *app) *cobra.Command {
	var o convertOptions
	c := &cobra.Command{
		Use:   "convert MODEL OUT",
		Short: "Write a model in another form: diffusers directory, single file or UNet file.",
		Long: "Writes a model in another form: diffusers directory, single file or UNet file.\n\n" +
			"MODEL is any of the three, also on the Hugging Face hub: hf:OWNER/NAME, or hf:OWNER/NAME/FILE. A single file is\n" +
			"what ComfyUI and A1111 load; a UNet file holds the UNet alone, and takes the rest of a model from --base. Without\n" +
			"--to, an OUT that ends in .safetensors becomes a single file and anything else a directory. Tensors are streamed,\n" +
			"and OUT appears complete or not at all.\n\n" +
			"A single file holds no configuration and no tokenizer. What fewstep writes carries them in its metadata; for other\n" +
			"files they are SDXL's.\n\n" +
			"A LoRA of any naming becomes one with kohya's names, which every program loads; its layers must be SDXL's, or those\n" +
			"of --base.",
		Example: "  fewstep convert juggernaut.safetensors models/juggernaut\n" +
			"  fewstep convert models/juggernaut juggernaut-bf16.safetensors --dtype bf16\n" +
			"  fewstep convert 4step_unet.safetensors 4step.safetensors --base models/juggernaut",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.in, o.out = args[0], args[1]
			return a.convert(cmd.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.to, "to", "", "directory, single, unet, or unet-ldm: a UNet under the names that ComfyUI loads without a line in its log")
	f.StringVar(&o.dtype, "dtype", "keep", "element type to write: fp16, bf16, f32, or keep")
	f.StringVar(&o.base, "base", "", "model that has the components which MODEL lacks")
	f.StringVar(&o.config, "config", "", configUsage)
	f.StringVar(&o.loraNames, "lora-names", string(lora.SGM), loraNamesUsage)
	return c
}

// written is what a command wrote, for --json.
type written struct {
	From    bundle.Layout `json:"from"`
	Out     string        `json:"out"`
	To      bundle.Layout `json:"to"`
	Bytes   int64         `json:"bytes"` // of data
	Seconds float64       `json:"seconds"`
	PerSec  float64       `json:"bytes_per_second"`
	LeftOut []string      `json:"left_out"` // tensors of the model that the new form has no place for
}

var layouts = map[string]bundle.Layout{"directory": bundle.Directory, "single": bundle.SingleFile, "unet": bundle.UNetFile, "unet-ldm": unetLDM}

// unetLDM is a UNet file under LDM's names.
const unetLDM bundle.Layout = "UNet file, LDM's names"

func (a *app) convert(ctx context.Context, o convertOptions) error {
	to, dtype, err := outputForm(o.to, o.out, o.dtype)
	if err != nil {
		return err
	}
	if err := a.localAll(ctx, &o.in, &o.base); err != nil {
		return err
	}
	if isLoRA(o.in) {
		return a.convertLoRA(o)
	}
	b, err := openBundle(o.in, o.base, o.config)
	if err != nil {
		return err
	}
	defer b.Close()
	_, notes, err := b.Prediction()
	if err != nil {
		return err
	}
	for _, note := range notes {
		a.log.Warn(o.in + ": " + note)
	}
	if left := b.LeftOut(); len(left) > 0 {
		a.log.Info(fmt.Sprintf("%d tensors have no place in another form: %s", len(left), some(left)))
	}
	return a.write(b, to, o.out, dtype, "convert")
}

// write writes a model with progress, and says what it wrote.
func (a *app) write(b *bundle.Bundle, to bundle.Layout, out string, dtype weights.DType, what string) error {
	result := written{From: b.Layout, Out: out, To: to, LeftOut: b.LeftOut()}
	progress := a.byteProgress(what)
	defer progress.Close()
	opt := bundle.WriteOptions{DType: dtype, Progress: func(done, total int64) {
		result.Bytes = total
		progress.update(done, total)
	}}
	start := time.Now()
	var err error
	switch to {
	case bundle.Directory:
		err = b.WriteDirectory(out, opt)
	case bundle.SingleFile:
		err = b.WriteSingleFile(out, opt)
	case bundle.UNetFile, unetLDM:
		opt.LDMNames = to == unetLDM
		err = b.WriteUNet(out, opt)
	}
	if err != nil {
		return err
	}
	result.Seconds = time.Since(start).Seconds()
	result.PerSec = float64(result.Bytes) / result.Seconds
	if err := progress.Close(); err != nil {
		return err
	}
	if a.json {
		return a.writeJSON(result)
	}
	_, err = fmt.Fprintln(a.stdout, out)
	return err
}

// openBundle opens a model, and takes what it lacks, as a UNet alone does, from its base.
func openBundle(path, base, config string) (*bundle.Bundle, error) {
	b, err := bundle.Open(path, bundle.Options{Config: config})
	if err != nil || base == "" {
		return b, err
	}
	whole, err := bundle.Open(base, bundle.Options{Config: config})
	if err != nil {
		b.Close()
		return nil, err
	}
	if err := whole.Take(b); err != nil {
		whole.Close()
		b.Close()
		return nil, err
	}
	return whole, nil
}

// some lists a few names and how many more there are.
func some(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// partProgress shows how much of something has been done. Nothing is shown of what takes under two seconds.
type partProgress struct {
	name, unit string
	size       float64 // of a unit
	show       *monitor.Progress
	begun      time.Time
	quiet      bool
}

func (a *app) progress(name, unit string, size float64) *partProgress {
	return &partProgress{name: name, unit: unit, size: size, begun: time.Now(), quiet: a.quiet,
		show: monitor.NewProgress(a.stderr, monitor.StyleAuto, 2*time.Second)}
}

// byteProgress shows how much of a file has been written.
func (a *app) byteProgress(name string) *partProgress { return a.progress(name, "MB", 1e6) }

func (p *partProgress) update(done, total int64) {
	if p.quiet || time.Since(p.begun) < 2*time.Second {
		return
	}
	d, t := int64(float64(done)/p.size), int64(float64(total)/p.size)
	_ = p.show.Update(monitor.Record{Kind: monitor.KindStep, Stage: p.name, Phase: p.unit, Samples: d, Total: t, Position: d, RunTotal: t})
}

// Close ends the line; calling it again does nothing.
func (p *partProgress) Close() error { return p.show.Close() }
