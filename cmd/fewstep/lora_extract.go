package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/engine"
	"fewstep/engine/extract"
	"fewstep/internal/xla"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/nn"
	"fewstep/model/weights"
)

type extractOptions struct {
	base, tuned, out, dtype string
	names                   string
	rank                    int
}

func newLoRAExtract(a *app) *cobra.Command {
	var o extractOptions
	c := &cobra.Command{
		Use:   "extract",
		Short: "Make a LoRA of the difference between two models' UNets.",
		Long: "Makes a LoRA of the difference between two models' UNets.\n\n" +
			"Of each layer's difference it holds the best approximation of the given rank, by truncated singular value\n" +
			"decomposition on the backend. It says how much of the difference that misses, and what a\n" +
			"LoRA cannot hold at all. Text encoders and VAE are not looked at.",
		Example: "  fewstep lora extract --base sdxl.safetensors --tuned juggernaut.safetensors --rank 64 --out juggernaut_lora.safetensors",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.loraExtract(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.base, "base", "", "model that the LoRA will be used on: directory, single file or UNet file")
	f.StringVar(&o.tuned, "tuned", "", "model that base and LoRA together shall be")
	f.StringVarP(&o.out, "out", "o", "", "the LoRA file to write, with kohya's names")
	f.IntVarP(&o.rank, "rank", "r", 64, "rank of each module; smaller layers have less")
	f.StringVar(&o.dtype, "dtype", "fp16", "element type to write: fp16, bf16 or f32")
	f.StringVar(&o.names, "lora-names", string(lora.SGM), loraNamesUsage)
	return c
}

// extracted is what lora extract did, for --json.
type extracted struct {
	Out       string   `json:"out"`
	Rank      int      `json:"rank"`
	Modules   int      `json:"modules"`
	Unchanged int      `json:"unchanged"`      // layers without a difference
	Error     float64  `json:"relative_error"` // norm of what the LoRA misses of the layers' differences
	LeftOut   []string `json:"left_out"`       // tensors that differ and that a LoRA cannot hold
	Seconds   float64  `json:"seconds"`
}

func (a *app) loraExtract(cmd *cobra.Command, o extractOptions) error {
	dtype, ok := exportTypes[o.dtype]
	switch {
	case o.base == "" || o.tuned == "" || o.out == "":
		return usageErrorf("--base, --tuned and --out are needed")
	case o.rank < 1:
		return usageErrorf("--rank is %d; it must be at least 1", o.rank)
	case !ok:
		return withHint(usageErrorf("unknown element type %q", o.dtype), "choose fp16, bf16 or f32")
	}
	blocks, err := lora.ParseBlocks(o.names)
	if err != nil {
		return usageErrorf("--lora-names: %v", err)
	}
	name := func(path string) string { return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) }
	title := fmt.Sprintf("%s from %s, rank %d", name(o.tuned), name(o.base), o.rank)
	if err := a.localAll(cmd.Context(), &o.base, &o.tuned); err != nil {
		return err
	}
	base, err := openUNet(o.base)
	if err != nil {
		return err
	}
	defer base.Close()
	tuned, err := openUNet(o.tuned)
	if err != nil {
		return err
	}
	defer tuned.Close()
	rt, err := a.openBackend(xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	progress := a.progress("extract", "million weights", 1e6)
	defer progress.Close()
	start := time.Now()
	r, err := extract.UNets(cmd.Context(), engine.New(rt.Backend, dtypes.Float32, nn.Network), base, tuned,
		extract.Options{Rank: o.rank, Progress: progress.update})
	if err != nil {
		return fmt.Errorf("%s from %s: %w", o.tuned, o.base, err)
	}
	if err := progress.Close(); err != nil {
		return err
	}
	tensors, err := lora.Tensors(r.Modules, blocks, lora.AllLayers(base), dtype)
	if err != nil {
		return err
	}
	spec := weights.ModelSpec{Architecture: architecture(base) + "/lora", Implementation: "https://github.com/kohya-ss/sd-scripts",
		Title: title}
	metadata, err := spec.Metadata()
	if err != nil {
		return err
	}
	if err := weights.Save(o.out, tensors, weights.Options{Metadata: metadata, Hash: true, Finite: true}); err != nil {
		return err
	}
	if len(r.LeftOut) > 0 {
		a.log.Warn(fmt.Sprintf("%d tensors differ that a LoRA cannot hold: %s", len(r.LeftOut), some(r.LeftOut)))
	}
	a.log.Info("extracted", "modules", len(r.Modules), "unchanged", r.Unchanged, "misses", fmt.Sprintf("%.2g %%", 100*r.Error))
	if a.json {
		return a.writeJSON(extracted{o.out, o.rank, len(r.Modules), r.Unchanged, r.Error, r.LeftOut, time.Since(start).Seconds()})
	}
	_, err = fmt.Fprintln(a.stdout, o.out)
	return err
}

// openUNet opens the UNet of any form of a model, whose other parts are not needed, or of a component folder.
func openUNet(path string) (weights.Source, error) {
	folder := filepath.Join(path, ldm.UNet)
	if info, err := os.Stat(folder); err == nil && info.IsDir() {
		path = folder
	}
	src, err := weights.OpenModel(path)
	if err != nil {
		return nil, err
	}
	c, err := ldm.New(path, src, nil)
	if err != nil {
		src.Close()
		return nil, err
	}
	unet, err := c.Component(ldm.UNet)
	if err != nil {
		c.Close()
		return nil, err
	}
	return opened{unet, c.Close}, nil
}

// opened is a source whose file is closed with it.
type opened struct {
	weights.Source
	close func() error
}

func (o opened) Close() error { return o.close() }

// architecture is modelspec's name for a UNet, by its names and shapes.
func architecture(unet weights.Source) string {
	width := func(name string) int {
		t, err := unet.Tensor(name)
		if err != nil || len(t.Shape) < 2 {
			return 0
		}
		return t.Shape[1]
	}
	_, err := unet.Tensor("add_embedding.linear_1.weight")
	first := width("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")
	switch {
	case err == nil && width("mid_block.attentions.0.transformer_blocks.9.attn2.to_k.weight") == 2048:
		return "stable-diffusion-xl-v1-base"
	case err == nil:
		return "stable-diffusion-xl-family"
	case first == 768:
		return "stable-diffusion-v1"
	case first == 1024: // shapes do not tell for which side it was made
		return "stable-diffusion-v2-768-v"
	}
	return "stable-diffusion-family"
}
