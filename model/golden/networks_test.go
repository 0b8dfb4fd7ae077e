package golden

import (
	"slices"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/model/clip"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
	"fewstep/model/unet"
	"fewstep/model/vae"

	"github.com/gomlx/compute/dtypes"
)

// comparisons are all golden models.
func comparisons(t *testing.T) (all []comparison) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"unet", "unet_odd", "unet_lists", "unet_single", "unet_vega", "unet_koala"} {
		config, err := unet.LoadConfig(configOf(folder))
		must(err)
		var lora *nn.LoRA
		if folder == "unet_odd" {
			lora = &nn.LoRA{Rank: 3, Scale: 0.5}
		}
		all = append(all, comparison{folder: folder, block: config.Network("net", lora),
			inputs: []string{"sample", "time", "text", "pooled", "ids"}, outputs: []string{"sample"}})
	}
	for _, folder := range []string{"unet_sd1", "unet_sd2"} {
		config, err := unet.LoadConfig(configOf(folder))
		must(err)
		var lora *nn.LoRA
		if folder == "unet_sd1" {
			lora = &nn.LoRA{Rank: 3, Scale: 0.5}
		}
		all = append(all, comparison{folder: folder, block: config.Network("net", lora), inputs: []string{"sample", "time", "text"}, outputs: []string{"sample"}})
	}
	for _, folder := range []string{"clip_sd1", "clip_sd2"} {
		config, err := clip.LoadTextConfig(configOf(folder))
		must(err)
		all = append(all, comparison{folder: folder, block: config.Tokens("net"), inputs: []string{"ids"}, integer: []string{"ids"}, outputs: []string{"tokens"}})
	}
	backbone, err := unet.LoadConfig(configOf("critic"))
	must(err)
	all = append(all, comparison{folder: "critic", block: criticBlock("net", &discriminator.Config{Denoiser: backbone, Channels: 12, Groups: 4}),
		inputs: []string{"next", "x", "time_next", "time", "text", "pooled", "ids"}, outputs: []string{"logits"}})
	for _, folder := range []string{"vae", "vae_odd"} {
		config, err := vae.LoadConfig(configOf(folder))
		must(err)
		all = append(all, comparison{folder: folder, block: config.Autoencoder("net"),
			inputs: []string{"image", "noise"}, outputs: []string{"image", "mean", "logvar"}})
	}
	for _, folder := range []string{"clip_text", "clip_text_projection", "clip"} {
		config, err := clip.LoadTextConfig(configOf(folder))
		must(err)
		c := comparison{folder: folder, block: config.Text("net"),
			inputs: []string{"ids", "eos"}, integer: []string{"ids", "eos"}, outputs: []string{"hidden", "pooled"},
			given: map[string]array{"eos": eosPositions(config, golden(t, folder)["in.ids"])}}
		switch {
		case folder == "clip":
			c.block, err = clipBlock("net", configOf(folder))
			must(err)
			c.inputs = []string{"image", "ids", "eos"}
			c.outputs = []string{"logits", "image", "state0", "state1", "state2"}
		case config.Projected:
			c.outputs = append(c.outputs, "projected")
		}
		all = append(all, c)
	}
	return all
}

// criticBlock is the conditional discriminator: x_t', x_t, their timesteps and the conditions to logits.
func criticBlock(name string, c *discriminator.Config) nn.Block {
	return nn.Block{
		Kind: "critic", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			next := nn.One(r, c.Backbone(""), append([]nn.Value{in[0], in[2]}, in[4:]...)...)
			x := nn.One(r, c.Backbone(""), append([]nn.Value{in[1], in[3]}, in[4:]...)...)
			return r.Run(c.Head(""), nn.One(r, discriminator.Beside(), next, x))
		},
	}
}

// TestNetworks compares each model, whole, with the library that it comes from.
func TestNetworks(t *testing.T) {
	for _, c := range comparisons(t) {
		t.Run(c.folder, c.run)
	}
}

// TestLayers compares the outputs of all models run layer by layer.
func TestLayers(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a few hundred small programs")
	}
	e := engine.New(backend(t).Backend, dtypes.Float32, nn.Layer)
	for _, c := range comparisons(t) {
		t.Run(c.folder, func(t *testing.T) { c.runLayers(t, e, forwardTolerance) })
	}
}

// TestTapeGradients compares the gradients that training at layer granularity sees: each block's own backward program,
// block by block from the loss down. The optimizer's first moment after one step is half the gradient.
func TestTapeGradients(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a few hundred small programs")
	}
	e := engine.New(backend(t).Backend, dtypes.Float32, nn.Layer)
	for _, c := range comparisons(t) {
		if c.folder == "unet_odd" || c.folder == "unet_sd1" || c.folder == "critic" { // student with adapters, and discriminator: what is trained so
			t.Run(c.folder, func(t *testing.T) { c.runTape(t, e) })
		}
	}
}

// TestBFloat16 computes in bf16 with f32 inputs and weights, which must build and stay near the f32 outputs.
func TestBFloat16(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles a few hundred small programs")
	}
	e := engine.New(backend(t).Backend, dtypes.BFloat16, nn.Layer)
	for _, c := range comparisons(t) {
		if !slices.Contains([]string{"unet", "unet_single", "unet_vega", "unet_koala", "vae_odd"}, c.folder) { // the others have every kind of layer
			t.Run(c.folder, func(t *testing.T) { c.runLayers(t, e, bfloat16Tolerance) })
		}
	}
}

// TestBeyondFloat16 is an autoencoder with activations beyond fp16's range, where diffusers in fp16 gives NaN: f32 is
// exact, and bf16, with the norms' statistics in f32, near it.
func TestBeyondFloat16(t *testing.T) {
	config, err := vae.LoadConfig(configOf("vae_overflow"))
	if err != nil {
		t.Fatal(err)
	}
	c := comparison{folder: "vae_overflow", block: config.Autoencoder("net"),
		inputs: []string{"image", "noise"}, outputs: []string{"image", "mean", "logvar"},
		scale: func(parameter string) float32 {
			if strings.HasSuffix(parameter, ".conv2.weight") {
				return 1e5
			}
			return 1
		}}
	for dtype, tolerance := range map[dtypes.DType]float64{dtypes.Float32: forwardTolerance, dtypes.BFloat16: bfloat16Tolerance} {
		t.Run(dtype.String(), func(t *testing.T) {
			c.runLayers(t, engine.New(backend(t).Backend, dtype, nn.Network), tolerance)
		})
	}
}

func eosPositions(config *clip.TextConfig, ids array) array {
	out := array{dims: ids.dims[:1]}
	for row := range ids.dims[0] {
		sequence := make([]int32, ids.dims[1])
		for i := range sequence {
			sequence[i] = int32(ids.values[row*ids.dims[1]+i])
		}
		out.values = append(out.values, float32(config.EOSPosition(sequence)))
	}
	return out
}
