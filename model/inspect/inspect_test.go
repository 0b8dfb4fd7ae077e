package inspect

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"fewstep/model/weights"
)

func TestKinds(t *testing.T) {
	for _, c := range []struct {
		want  Kind
		names []string
	}{
		{Adapters, []string{"mid_block.a.weight.lora_down", "mid_block.a.weight.lora_up"}},
		{LoRA, []string{"lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"}},
		{LoRA, []string{"unet.a.lora_A.weight", "unet.a.lora_B.weight"}},
		{LoRA, []string{"unet.a.lora.down.weight", "unet.a.lora.up.weight"}},
		{SingleFile, []string{"model.diffusion_model.out.2.weight", "first_stage_model.encoder.conv_in.weight"}},
		{UNet, []string{"down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"}},
		{VAE, []string{"encoder.conv_in.weight", "decoder.conv_in.weight"}},
		{Text, []string{"text_model.final_layer_norm.weight", "text_projection.weight"}},
		{CLIP, []string{"text_model.final_layer_norm.weight", "vision_model.post_layernorm.weight"}},
		{Other, []string{"x"}},
	} {
		if got, _ := classify(c.names); got != c.want {
			t.Errorf("%v: %s, want %s", c.names, got, c.want)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.safetensors")
	err := weights.Write(path, []weights.Tensor{
		weights.FromFloat32("lora_unet_a.lora_down.weight", []int{2, 3}, []float32{1, 2, 3, 4, 5, float32(math.NaN())}, weights.F16),
		weights.FromFloat32("lora_unet_a.lora_up.weight", []int{1, 2}, []float32{1, 2}, weights.F16),
		weights.FromFloat32("lora_unet_a.alpha", nil, []float32{0.1}, weights.F32),
	}, map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != LoRA || r.Detail != "kohya's names, 1 modules, rank 2" || r.Parameters != 9 || r.Bytes != 20 || r.Types() != "F16 ×2, F32 ×1" ||
		!slices.Equal(r.NotFinite, []string{"lora_unet_a.lora_down.weight"}) || r.Metadata["k"] != "v" {
		t.Errorf("%+v", r)
	}
}

func TestDirectory(t *testing.T) {
	reports, err := Path("../../assets/mini")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]Kind{}
	for _, r := range reports {
		kinds[filepath.Base(r.Path)] = r.Kind
		if len(r.NotFinite) > 0 {
			t.Errorf("%s: not finite: %v", r.Path, r.NotFinite)
		}
	}
	for name, want := range map[string]Kind{"unet": UNet, "vae": VAE, "text_encoder": Text, "text_encoder_2": Text, "clip": CLIP} {
		if kinds[name] != want {
			t.Errorf("%s: %s, want %s", name, kinds[name], want)
		}
	}
}
