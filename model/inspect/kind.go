package inspect

import (
	"fmt"
	"slices"
	"strings"

	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/weights"
)

// Kind is what a file holds.
type Kind string

// Kinds of files.
const (
	UNet       Kind = "UNet"
	Network    Kind = "diffusion transformer"
	LoRA       Kind = "LoRA"
	Adapters   Kind = "adapters" // a LoRA phase's result in a run directory
	VAE        Kind = "VAE"
	Text       Kind = "text encoder"
	CLIP       Kind = "CLIP"
	SingleFile Kind = "single file" // several parts of a model under LDM's names
	ControlNet Kind = "ControlNet"
	Inception  Kind = "Inception"
	Embedding  Kind = "textual inversion"
	Other      Kind = "other"
)

// verdict is what names and shapes tell.
type verdict struct {
	kind     Kind
	family   string // "SDXL", "Stable Diffusion 1", …; empty where it does not matter or cannot be told
	detail   string
	loadedBy string
	problems []string
}

// sight is a file's names and shapes.
type sight struct {
	src   weights.Source
	names []string
}

func (s sight) has(name string) bool {
	_, ok := slices.BinarySearch(s.names, name)
	return ok
}

func (s sight) begins(prefix string) bool {
	i, _ := slices.BinarySearch(s.names, prefix)
	return i < len(s.names) && strings.HasPrefix(s.names[i], prefix)
}

func (s sight) contains(part string) bool {
	return slices.ContainsFunc(s.names, func(n string) bool { return strings.Contains(n, part) })
}

func (s sight) dim(name string, axis int) int {
	t, err := s.src.Tensor(name)
	if err != nil || axis >= len(t.Shape) {
		return 0
	}
	return t.Shape[axis]
}

// classify tells the kind by names that no other kind has.
func classify(src weights.Source) verdict {
	s := sight{src, src.Names()}
	switch {
	case s.contains(".weight.lora_down"):
		return verdict{kind: Adapters, loadedBy: "fewstep export, which writes it as a LoRA file"}
	case s.contains("hada_w1_a"):
		return verdict{kind: LoRA, detail: "LyCORIS's LoHa", loadedBy: "ComfyUI's LoraLoader; not fewstep, which reads plain LoRA"}
	case s.contains("lokr_w1"):
		return verdict{kind: LoRA, detail: "LyCORIS's LoKr", loadedBy: "ComfyUI's LoraLoader; not fewstep, which reads plain LoRA"}
	case s.contains("dora_scale"):
		return verdict{kind: LoRA, detail: "DoRA", loadedBy: "ComfyUI's LoraLoader; not fewstep, which reads plain LoRA"}
	case s.contains("lora_down") || s.contains("lora_A.") || s.contains(".lora.down.") || s.contains("_lora.down.") || s.contains("lora_linear_layer.down."):
		return loraVerdict(src)
	case s.begins("emb_params") || s.begins("clip_g") && s.begins("clip_l") && len(s.names) <= 4:
		return verdict{kind: Embedding, loadedBy: "ComfyUI's embeddings folder; diffusers' load_textual_inversion"}
	case s.contains("Mixed_7c."):
		return verdict{kind: Inception, loadedBy: "fewstep eval"}
	case s.begins("text_model.") && s.begins("vision_model."):
		return verdict{kind: CLIP, loadedBy: "transformers' CLIPModel, beside its config.json"}
	case s.begins("text_model.") || s.begins("encoder.block.0.layer.0.SelfAttention.") || s.begins("transformer.resblocks.") || s.begins("model.transformer.resblocks."):
		return textVerdict(s)
	}
	if v, ok := ldmVerdict(s); ok {
		return v
	}
	return diffusersVerdict(s)
}

func loraVerdict(src weights.Source) verdict {
	d, err := lora.Describe(src)
	if err != nil {
		return verdict{kind: LoRA, detail: "with parts that are not plain LoRA", loadedBy: "perhaps ComfyUI's LoraLoader", problems: []string{err.Error()}}
	}
	v := verdict{kind: LoRA, problems: d.Problems}
	switch {
	case d.Mentions("double_blocks") || d.Mentions("single_blocks") || d.Mentions("single_transformer_blocks"):
		v.family = string(ldm.Flux)
	case d.Mentions("joint_blocks") || d.Mentions("context_block"):
		v.family = string(ldm.SD3)
	case d.Context == 2048:
		v.family = string(ldm.SDXL)
	case d.Context == 1280:
		v.family = string(ldm.SDXLRefiner)
	case d.Context == 1024:
		v.family = string(ldm.SD2)
	case d.Context == 768:
		v.family = string(ldm.SD1)
	}
	namings := map[lora.Naming]string{lora.Kohya: "kohya's names", lora.DiffusersLegacy: "diffusers' older names", lora.PEFT: "PEFT's names"}
	var parts []string
	for _, n := range d.Namings {
		parts = append(parts, namings[n])
	}
	parts = append(parts, fmt.Sprintf("%d modules", d.Modules))
	if n := len(d.Ranks); n == 1 {
		parts = append(parts, fmt.Sprintf("rank %d", d.Ranks[0]))
	} else if n > 1 {
		parts = append(parts, fmt.Sprintf("ranks %d to %d", d.Ranks[0], d.Ranks[n-1]))
	}
	if d.MissingAlpha > 0 {
		parts = append(parts, fmt.Sprintf("%d without alpha", d.MissingAlpha))
	}
	if d.TextEncoder > 0 {
		parts = append(parts, fmt.Sprintf("and %d of text encoders, which fewstep leaves out", d.TextEncoder))
	}
	v.detail = strings.Join(parts, ", ")
	v.loadedBy = "fewstep sample --lora; ComfyUI's LoraLoader; diffusers' load_lora_weights"
	switch {
	case v.family != "" && v.family != string(ldm.SDXL):
		v.loadedBy = "ComfyUI's LoraLoader and diffusers' load_lora_weights, on its own family; not fewstep"
	case slices.Equal(d.Namings, []lora.Naming{lora.PEFT}):
		v.loadedBy = "fewstep sample --lora; diffusers' load_lora_weights; ComfyUI loads such names in part only: fewstep lora merge, or kohya's names"
	}
	return v
}

func textVerdict(s sight) verdict {
	switch {
	case s.begins("encoder.block."):
		return verdict{kind: Text, detail: "T5", loadedBy: "transformers' T5EncoderModel, beside its config.json; no part of SDXL"}
	case !s.begins("text_model."):
		return verdict{kind: Text, detail: "OpenCLIP's names", loadedBy: "open_clip; ComfyUI's CLIPLoader"}
	case s.begins("text_projection."):
		return verdict{kind: Text, detail: "with projection, as SDXL's second", loadedBy: "transformers' CLIPTextModelWithProjection, beside its config.json; ComfyUI's CLIPLoader"}
	}
	return verdict{kind: Text, loadedBy: "transformers' CLIPTextModel, beside its config.json; ComfyUI's CLIPLoader"}
}

func ldmVerdict(s sight) (verdict, bool) {
	family := ldm.Identify(s.src)
	unet, vae := s.begins("model.diffusion_model."), s.begins("first_stage_model.")
	text := s.begins("conditioner.") || s.begins("cond_stage_model.")
	v := verdict{kind: SingleFile, family: string(family)}
	switch {
	case family == ldm.ControlNet:
		return verdict{kind: ControlNet, loadedBy: "ComfyUI's ControlNetLoader; not fewstep"}, true
	case vae && !unet || s.begins("encoder.down.0.block."):
		return verdict{kind: VAE, detail: "LDM's names", loadedBy: "ComfyUI's VAELoader; diffusers' AutoencoderKL.from_single_file"}, true
	case !unet && (family == ldm.Flux || family == ldm.SD3):
		return verdict{kind: Network, family: string(family), loadedBy: "ComfyUI's UNETLoader; not fewstep"}, true
	case s.has("input_blocks.0.0.weight"):
		return verdict{kind: UNet, detail: "LDM's names without their prefix", loadedBy: "ComfyUI's UNETLoader"}, true
	case !unet:
		return v, false
	case !vae && !text:
		v.kind, v.detail = UNet, "LDM's names"
		v.loadedBy = "fewstep sample --unet; ComfyUI's UNETLoader"
	default:
		parts := []string{"UNet"}
		if vae {
			parts = append(parts, "VAE")
		}
		if text {
			parts = append(parts, "text encoders")
		}
		v.detail = strings.Join(parts, ", ")
		v.loadedBy = "fewstep sample --model, fewstep convert; ComfyUI's CheckpointLoaderSimple; A1111; diffusers' from_single_file"
	}
	if family != ldm.SDXL {
		v.detail += "; " + family.Sentence()
		v.loadedBy = "ComfyUI; diffusers' from_single_file, for its own family; not fewstep"
	}
	return v, true
}

func diffusersVerdict(s sight) verdict {
	switch {
	case s.begins("controlnet_cond_embedding."):
		return verdict{kind: ControlNet, loadedBy: "diffusers' ControlNetModel, beside its config.json; not fewstep"}
	case s.begins("down_blocks.") && s.begins("time_embedding."):
		return unetVerdict(s)
	case s.begins("single_transformer_blocks."):
		return verdict{kind: Network, family: string(ldm.Flux), loadedBy: "diffusers' FluxTransformer2DModel, beside its config.json; not fewstep"}
	case s.begins("transformer_blocks.0.attn.add_k_proj."):
		return verdict{kind: Network, family: string(ldm.SD3), loadedBy: "diffusers' SD3Transformer2DModel, beside its config.json; not fewstep"}
	case s.begins("encoder.") && s.begins("decoder."):
		return verdict{kind: VAE, detail: "diffusers' names", loadedBy: "diffusers' AutoencoderKL, beside its config.json; ComfyUI's VAELoader"}
	}
	return verdict{kind: Other, loadedBy: "unknown"}
}

func unetVerdict(s sight) verdict {
	v := verdict{kind: UNet, detail: "diffusers' names", loadedBy: "diffusers' UNet2DConditionModel, beside its config.json; not fewstep"}
	var text int
	for _, name := range s.names {
		if strings.HasSuffix(name, "attn2.to_k.weight") {
			text = s.dim(name, 1)
			break
		}
	}
	inputs := s.dim("conv_in.weight", 1)
	switch {
	case s.begins("add_embedding.") && inputs > 4:
		v.family = string(ldm.SDXLInpainting)
	case s.begins("add_embedding.") && text == 1280:
		v.family = string(ldm.SDXLRefiner)
	case s.begins("add_embedding."):
		v.family = string(ldm.SDXL)
		v.loadedBy = "fewstep sample --unet; ComfyUI's UNETLoader; diffusers' UNet2DConditionModel, beside its config.json"
	case inputs == 9:
		v.family = string(ldm.SDInpainting)
	case text == 1024:
		v.family = string(ldm.SD2)
	case text == 768:
		v.family = string(ldm.SD1)
	}
	return v
}
