package inspect

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/bundle"
	"fewstep/model/weights"
)

// tensor is one of F16 without data.
func tensor(name string, shape ...int) weights.Tensor {
	return weights.Tensor{Name: name, DType: weights.F16, Shape: shape}
}

func named(names ...string) weights.Source {
	var all []weights.Tensor
	for _, n := range names {
		all = append(all, tensor(n, 1))
	}
	return weights.Collect(all)
}

func TestKinds(t *testing.T) {
	const unet = "model.diffusion_model."
	for what, c := range map[string]struct {
		src    weights.Source
		kind   Kind
		family string
		says   string // part of detail or of what loads it
	}{
		"run's result":       {named("mid_block.a.weight.lora_down", "mid_block.a.weight.lora_up"), Adapters, "", "fewstep export"},
		"kohya's LoRA":       {named("lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_unet_a.alpha"), LoRA, "", "kohya's names, 1 modules"},
		"LoRA with text":     {named("lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight", "lora_te1_b.alpha"), LoRA, "", "and 1 of text encoders"},
		"PEFT's LoRA":        {named("unet.a.lora_A.weight", "unet.a.lora_B.weight"), LoRA, "", "ComfyUI loads such names in part only"},
		"older LoRA":         {named("unet.a.lora.down.weight", "unet.a.lora.up.weight"), LoRA, "", "diffusers' older names"},
		"SDXL's LoRA":        {weights.Collect([]weights.Tensor{tensor("lora_unet_x_attn2_to_k.lora_down.weight", 8, 2048), tensor("lora_unet_x_attn2_to_k.lora_up.weight", 640, 8)}), LoRA, "SDXL", "rank 8, 1 without alpha fewstep sample --lora, fewstep lora merge; ComfyUI's LoraLoader; diffusers' load_lora_weights; A1111"},
		"SD 1's LoRA":        {weights.Collect([]weights.Tensor{tensor("lora_unet_x_attn2_to_k.lora_down.weight", 8, 768), tensor("lora_unet_x_attn2_to_k.lora_up.weight", 320, 8)}), LoRA, "Stable Diffusion 1", "fewstep lora merge"},
		"Flux's LoRA":        {named("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight"), LoRA, "Flux", "not fewstep"},
		"LoHa":               {named("lora_unet_a.hada_w1_a", "bundle_emb.x.clip_l"), LoRA, "", "LoHa, 1 without alpha, and 1 tensors that are no part of an adapter, such as bundle_emb.x.clip_l"},
		"LoKr":               {named("lora_unet_a.lokr_w1"), LoRA, "", "LoKr"},
		"DoRA":               {named("lora_unet_a.dora_scale", "lora_unet_a.lora_down.weight"), LoRA, "", "DoRA"},
		"SDXL":               {named(unet+"label_emb.0.0.weight", unet+"time_embed.0.weight", "first_stage_model.encoder.conv_in.weight", "conditioner.embedders.0.transformer.x"), SingleFile, "SDXL", "UNet, VAE, text encoders"},
		"SDXL without text":  {named(unet+"label_emb.0.0.weight", unet+"time_embed.0.weight"), UNet, "SDXL", "LDM's names"},
		"refiner":            {named(unet+"label_emb.0.0.weight", "conditioner.embedders.0.model.text_projection"), SingleFile, "SDXL refiner", "refiner"},
		"SDXL inpainting":    {weights.Collect([]weights.Tensor{tensor(unet+"label_emb.0.0.weight", 1, 1), tensor(unet+"input_blocks.0.0.weight", 320, 9, 3, 3)}), UNet, "SDXL inpainting", "takes a mask"},
		"SD 1":               {named(unet+"time_embed.0.weight", "cond_stage_model.transformer.x", "first_stage_model.x"), SingleFile, "Stable Diffusion 1", "fewstep sample --model"},
		"SD 2":               {named(unet+"time_embed.0.weight", "cond_stage_model.model.token_embedding.weight"), SingleFile, "Stable Diffusion 2", "fewstep sample --model"},
		"SD inpainting":      {weights.Collect([]weights.Tensor{tensor(unet+"time_embed.0.weight", 1, 1), tensor(unet+"input_blocks.0.0.weight", 320, 9, 3, 3)}), UNet, "Stable Diffusion inpainting", "takes a mask"},
		"SD 3":               {named(unet + "joint_blocks.0.context_block.adaLN_modulation.1.bias"), UNet, "Stable Diffusion 3", "transformer"},
		"Flux":               {named("double_blocks.0.img_attn.norm.key_norm.scale"), Network, "Flux", "not fewstep"},
		"Flux in a file":     {named(unet+"double_blocks.0.img_attn.norm.key_norm.scale", "first_stage_model.x"), SingleFile, "Flux", "transformer"},
		"Playground":         {named("edm_mean", unet+"label_emb.0.0.weight"), UNet, "Playground 2.5", "EDM"},
		"ControlNet":         {named("control_model.time_embed.0.weight"), ControlNet, "", "ControlNetLoader"},
		"diffusers' UNet":    {named("down_blocks.0.x", "time_embedding.linear_1.weight", "add_embedding.linear_1.weight"), UNet, "SDXL", "fewstep sample --unet"},
		"diffusers' SD 1":    {weights.Collect([]weights.Tensor{tensor("down_blocks.0.a.attn2.to_k.weight", 320, 768), tensor("time_embedding.linear_1.weight", 1)}), UNet, "Stable Diffusion 1", "fewstep sample --unet"},
		"diffusers' refiner": {weights.Collect([]weights.Tensor{tensor("down_blocks.0.a.attn2.to_k.weight", 320, 1280), tensor("time_embedding.linear_1.weight", 1), tensor("add_embedding.linear_1.weight", 1)}), UNet, "SDXL refiner", "not fewstep"},
		"diffusers' Flux":    {named("single_transformer_blocks.0.x"), Network, "Flux", "FluxTransformer2DModel"},
		"diffusers' control": {named("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"), ControlNet, "", "ControlNet"},
		"VAE":                {named("encoder.conv_in.weight", "decoder.mid_block.resnets.0.conv1.weight"), VAE, "", "diffusers' names"},
		"LDM's VAE":          {named("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"), VAE, "", "LDM's names"},
		"text encoder":       {named("text_model.final_layer_norm.weight", "text_projection.weight"), Text, "", "with projection"},
		"T5":                 {named("encoder.block.0.layer.0.SelfAttention.q.weight"), Text, "", "T5"},
		"OpenCLIP":           {named("transformer.resblocks.0.attn.in_proj_weight"), Text, "", "OpenCLIP"},
		"CLIP":               {named("text_model.final_layer_norm.weight", "vision_model.post_layernorm.weight"), CLIP, "", "CLIPModel"},
		"embedding":          {named("emb_params"), Embedding, "", "load_textual_inversion"},
		"something else":     {named("x"), Other, "", "unknown"},
	} {
		v := classify(c.src)
		if v.kind != c.kind || v.family != c.family || !strings.Contains(v.detail+" "+v.loadedBy, c.says) {
			t.Errorf("%s: %+v", what, v)
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
	r, err := File(path, Options{Values: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != LoRA || r.Detail != "kohya's names, 1 modules, rank 2" || r.Parameters != 9 || r.Bytes != 20 || r.Types() != "F16 ×2, F32 ×1" ||
		!slices.Equal(r.NotFinite, []string{"lora_unet_a.lora_down.weight"}) || r.Metadata["k"] != "v" {
		t.Errorf("%+v", r)
	}
}

func TestDirectory(t *testing.T) {
	reports, err := Path("../../assets/mini", Options{Values: true})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]Kind{}
	for _, r := range reports {
		kinds[filepath.Base(r.Path)] = r.Kind
		if len(r.NotFinite) > 0 || !r.Values || len(r.Problems) > 0 {
			t.Errorf("%s: not finite: %v, problems %v", r.Path, r.NotFinite, r.Problems)
		}
	}
	for name, want := range map[string]Kind{"unet": UNet, "vae": VAE, "text_encoder": Text, "text_encoder_2": Text, "clip": CLIP} {
		if kinds[name] != want {
			t.Errorf("%s: %s, want %s", name, kinds[name], want)
		}
	}
}

// What a file predicts is told, and where it contradicts itself.
func TestPredicts(t *testing.T) {
	b, err := bundle.Open("../../assets/mini", bundle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for what, c := range map[string]struct {
		metadata       map[string]string
		marker         bool
		says           string
		contradictions int
	}{
		"plain":         {nil, false, "epsilon", 0},
		"metadata":      {map[string]string{"modelspec.prediction_type": "v"}, false, "v_prediction", 0},
		"marker":        {nil, true, "v_prediction", 0},
		"contradiction": {map[string]string{"modelspec.prediction_type": "epsilon"}, true, "v_prediction", 1},
	} {
		whole := filepath.Join(t.TempDir(), "u.safetensors")
		if err := b.WriteUNet(whole, bundle.WriteOptions{LDMNames: true}); err != nil {
			t.Fatal(err)
		}
		f, err := weights.Open(whole)
		if err != nil {
			t.Fatal(err)
		}
		var tensors []weights.Tensor
		for _, name := range f.Names() {
			x, err := f.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			tensors = append(tensors, x)
		}
		if c.marker {
			tensors = append(tensors, weights.Tensor{Name: "v_pred", DType: weights.F32, Shape: []int{0}, Data: []byte{}})
		}
		metadata := f.Metadata()
		for key, value := range c.metadata {
			metadata[key] = value
		}
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := weights.Write(path, tensors, metadata); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r, err := File(path, Options{})
		if err != nil || r.Kind != UNet || r.Predicts != c.says || strings.Count(r.Detail, "the first is taken") != c.contradictions || len(r.LeftOut) > 0 {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
}
