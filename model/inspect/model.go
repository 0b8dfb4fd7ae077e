package inspect

import (
	"slices"
	"strconv"
	"strings"

	"fewstep/model/ldm"
)

// transformerVerdict knows the networks of other families that are no UNets.
func transformerVerdict(s sight, family ldm.Family) (verdict, bool) {
	whole := s.begins("model.diffusion_model.")
	switch {
	case s.begins("single_transformer_blocks."):
		return verdict{kind: Network, family: string(ldm.Flux), loadedBy: "diffusers' FluxTransformer2DModel, beside its config.json; not fewstep"}, true
	case s.begins("transformer_blocks.0.attn.add_k_proj."):
		return verdict{kind: Network, family: string(ldm.SD3), loadedBy: "diffusers' SD3Transformer2DModel, beside its config.json; not fewstep"}, true
	case family != ldm.Flux && family != ldm.SD3:
		return verdict{}, false
	case !whole:
		return verdict{kind: Network, family: string(family), loadedBy: "ComfyUI's UNETLoader; not fewstep"}, true
	}
	v := verdict{kind: UNet, family: string(family), detail: family.Sentence(), loadedBy: "ComfyUI; not fewstep"}
	if s.begins("first_stage_model.") || s.begins("text_encoders.") {
		v.kind = SingleFile
	}
	return v, true
}

// model is the verdict on a file with parts of a model that has a UNet, or on a component.
func (s sight) model(family ldm.Family, parts []ldm.Part) verdict {
	part := map[string]ldm.Part{}
	var holds []string
	for _, p := range parts {
		part[p.Component] = p
	}
	unet, hasUNet := part[ldm.UNet]
	vae, hasVAE := part[ldm.VAE]
	text, hasText := part[ldm.Text2]
	if !hasText {
		text, hasText = part[ldm.Text]
	}
	other := s.begins("cond_stage_model.") || s.begins("conditioner.")
	for _, h := range []struct {
		has  bool
		name string
	}{{hasUNet, "UNet"}, {hasVAE, "VAE"}, {hasText || other, "text encoders"}} {
		if h.has {
			holds = append(holds, h.name)
		}
	}
	switch {
	case len(holds) == 0:
		return verdict{kind: Other, loadedBy: "unknown"}
	case len(holds) == 1 && hasVAE:
		return s.vae(vae)
	case len(holds) == 1 && hasText:
		return s.text(text)
	case len(holds) == 1 && hasUNet:
		return s.unet(family, unet)
	}
	v := verdict{kind: SingleFile, family: string(family), detail: strings.Join(holds, ", ")}
	switch {
	case !family.Drawable():
		v.detail += "; " + family.Sentence()
		v.loadedBy = "ComfyUI; diffusers' from_single_file, for its own family; not fewstep"
		if family.Readable() {
			v.loadedBy = "fewstep convert, fewstep lora merge; ComfyUI; diffusers' from_single_file"
		}
	case !s.standard(parts):
		v.loadedBy = "fewstep sample --model, fewstep convert, which writes it as other programs load it"
	case !s.comfyKnows(unet):
		v.loadedBy = "fewstep sample --model, fewstep convert; ComfyUI and A1111 know published models' widths and depths alone"
	default:
		v.loadedBy = "fewstep sample --model, fewstep convert; ComfyUI's CheckpointLoaderSimple"
		if family != ldm.SDXL || s.depths(unet) == fullDepths {
			v.loadedBy += "; A1111; diffusers' from_single_file"
		}
	}
	return v
}

// standard says whether parts lie where the single-file layout has them.
func (s sight) standard(parts []ldm.Part) bool {
	return !slices.ContainsFunc(parts, func(p ldm.Part) bool { return !p.Standard() })
}

func naming(p ldm.Part) string {
	name := "diffusers' names"
	if p.LDM {
		name = "LDM's names"
	}
	if p.Prefix != "" && !strings.HasPrefix(p.Prefix, "model.diffusion_model.") && !strings.HasPrefix(p.Prefix, "first_stage_model.") {
		name += " behind " + p.Prefix
	}
	return name
}

func (s sight) unet(family ldm.Family, p ldm.Part) verdict {
	v := verdict{kind: UNet, family: string(family), detail: naming(p)}
	if !family.Drawable() {
		v.detail += "; " + family.Sentence()
		v.loadedBy = "ComfyUI, for its own family; not fewstep"
		if !p.LDM && p.Prefix == "" {
			v.loadedBy = "diffusers' UNet2DConditionModel, beside its config.json; not fewstep"
		}
		if family.Readable() {
			v.loadedBy = "fewstep convert, fewstep lora merge; " + strings.TrimSuffix(v.loadedBy, "; not fewstep")
		}
		return v
	}
	by := []string{"fewstep sample --unet"}
	if s.comfyKnows(p) && (p.Prefix == "" || p.LDM && p.Prefix == "model.diffusion_model.") {
		if p.LDM {
			by = append(by, "ComfyUI's UNETLoader")
		} else {
			by = append(by, "ComfyUI's UNETLoader, which logs 20 harmless lines about keys that it does not find")
		}
	}
	if !p.LDM && p.Prefix == "" {
		by = append(by, "diffusers' UNet2DConditionModel, beside its config.json")
	}
	v.loadedBy = strings.Join(by, "; ")
	return v
}

// fullDepths are the transformer blocks of SDXL's own input blocks.
const fullDepths = "2,2,10,10"

// sdDepths are those of Stable Diffusion 1 and 2.
const sdDepths = "1,1,1,1,1,1"

// depths are the numbers of transformer blocks in a UNet's attentions on the way down, in the order of the blocks.
func (s sight) depths(p ldm.Part) string {
	var list []string
	for level := range 8 {
		for block := range 4 {
			name := p.Prefix
			if p.LDM {
				name += "input_blocks." + strconv.Itoa(4*level+block) + ".1."
			} else {
				name += "down_blocks." + strconv.Itoa(level) + ".attentions." + strconv.Itoa(block) + "."
			}
			n := 0
			for s.has(name + "transformer_blocks." + strconv.Itoa(n) + ".norm1.weight") {
				n++
			}
			if n > 0 {
				list = append(list, strconv.Itoa(n))
			}
		}
	}
	return strings.Join(list, ",")
}

// comfyKnows says whether a UNet is one of those that ComfyUI has in its list of models: SDXL, SSD-1B, Vega, KOALA 700M and
// 1B, Stable Diffusion 1 and 2.
func (s sight) comfyKnows(p ldm.Part) bool {
	first, context := "conv_in.weight", ""
	if p.LDM {
		first = "input_blocks.0.0.weight"
	}
	for _, name := range s.names {
		if strings.HasPrefix(name, p.Prefix) && strings.HasSuffix(name, "attn2.to_k.weight") {
			context = name
			break
		}
	}
	known := map[int][]string{2048: {fullDepths, "2,2,4,4", "1,1,2,2", "2,5", "2,6"}, 768: {sdDepths}, 1024: {sdDepths}}
	return s.dim(p.Prefix+first, 0) == 320 && slices.Contains(known[s.dim(context, 1)], s.depths(p))
}

func (s sight) vae(p ldm.Part) verdict {
	v := verdict{kind: VAE, detail: naming(p), loadedBy: "diffusers' AutoencoderKL, beside its config.json"}
	if p.LDM {
		v.loadedBy = "diffusers' AutoencoderKL.from_single_file"
	}
	if s.dim(p.Prefix+"encoder.conv_in.weight", 0) == 128 && (p.Prefix == "" || p.Prefix == "first_stage_model.") {
		v.loadedBy = "ComfyUI's VAELoader; " + v.loadedBy
	} else if p.LDM {
		v.loadedBy = "fewstep convert --base"
	}
	return v
}

func (s sight) text(p ldm.Part) verdict {
	v := verdict{kind: Text}
	width := 0
	for _, name := range []string{"text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight", "token_embedding.weight"} {
		width = max(width, s.dim(p.Prefix+name, 1))
	}
	comfy := ""
	if width == 768 || width == 1280 || width == 1024 {
		comfy = "; ComfyUI's CLIPLoader"
	}
	switch {
	case p.LDM:
		v.detail, v.loadedBy = "OpenCLIP's names", "open_clip"+comfy
		return v
	case !s.begins(p.Prefix + "text_model."):
		v.detail, comfy = "transformers 5's names", ""
	}
	v.loadedBy = "transformers' CLIPTextModel, beside its config.json" + comfy
	if s.begins(p.Prefix + "text_projection.") {
		if v.detail != "" {
			v.detail += ", "
		}
		v.detail += "with projection, as SDXL's second"
		v.loadedBy = "transformers' CLIPTextModelWithProjection, beside its config.json" + comfy
	}
	return v
}
