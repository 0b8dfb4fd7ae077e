package golden

import (
	"testing"

	"fewstep/model/clip"
	"fewstep/model/unet"
	"fewstep/model/vae"
)

func TestUNet(t *testing.T) {
	for _, folder := range []string{"unet", "unet_odd"} {
		t.Run(folder, func(t *testing.T) {
			config, err := unet.LoadConfig(configOf(folder))
			if err != nil {
				t.Fatal(err)
			}
			comparison{folder: folder, block: config.Network("net", nil),
				inputs:  []string{"sample", "time", "text", "pooled", "ids"},
				outputs: []string{"sample"}}.run(t)
		})
	}
}

func TestVAE(t *testing.T) {
	for _, folder := range []string{"vae", "vae_odd"} {
		t.Run(folder, func(t *testing.T) {
			config, err := vae.LoadConfig(configOf(folder))
			if err != nil {
				t.Fatal(err)
			}
			comparison{folder: folder, block: config.Autoencoder("net"),
				inputs:  []string{"image", "noise"},
				outputs: []string{"image", "mean", "logvar"}}.run(t)
		})
	}
}

func TestCLIPText(t *testing.T) {
	for _, folder := range []string{"clip_text", "clip_text_projection"} {
		t.Run(folder, func(t *testing.T) {
			config, err := clip.LoadTextConfig(configOf(folder))
			if err != nil {
				t.Fatal(err)
			}
			outputs := []string{"hidden", "pooled"}
			if config.Projected {
				outputs = append(outputs, "projected")
			}
			comparison{folder: folder, block: config.Text("net"),
				inputs: []string{"ids", "eos"}, integer: []string{"ids", "eos"}, outputs: outputs,
				given: map[string]array{"eos": eosPositions(config, golden(t, folder)["in.ids"])}}.run(t)
		})
	}
}

func TestCLIPModel(t *testing.T) {
	text, err := clip.LoadTextConfig(configOf("clip"))
	if err != nil {
		t.Fatal(err)
	}
	model, err := clipBlock("net", configOf("clip"))
	if err != nil {
		t.Fatal(err)
	}
	comparison{folder: "clip", block: model,
		inputs: []string{"image", "ids", "eos"}, integer: []string{"ids", "eos"},
		outputs: []string{"logits", "image", "state0", "state1", "state2"},
		given:   map[string]array{"eos": eosPositions(text, golden(t, "clip")["in.ids"])}}.run(t)
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
