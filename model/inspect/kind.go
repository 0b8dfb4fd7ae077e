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
	leftOut  []string
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
	family, parts := ldm.Contents(src)
	switch {
	case s.contains(".weight.lora_down"):
		return verdict{kind: Adapters, loadedBy: "fewstep export, which writes it as a LoRA file"}
	case s.begins("emb_params") || s.begins("clip_g") && s.begins("clip_l") && len(s.names) <= 4:
		return verdict{kind: Embedding, loadedBy: "ComfyUI's embeddings folder; diffusers' load_textual_inversion"}
	case s.contains("Mixed_7c."):
		return verdict{kind: Inception, loadedBy: "fewstep eval"}
	case s.begins("text_model.") && s.begins("vision_model."):
		return verdict{kind: CLIP, loadedBy: "transformers' CLIPModel, beside its config.json"}
	case s.begins("encoder.block.0.layer.0.SelfAttention."):
		return verdict{kind: Text, detail: "T5", loadedBy: "transformers' T5EncoderModel, beside its config.json; no part of SDXL"}
	case family == ldm.LoRA:
		return loraVerdict(src)
	case family == ldm.ControlNet && s.begins("control_model."):
		return verdict{kind: ControlNet, loadedBy: "ComfyUI's ControlNetLoader; not fewstep"}
	case family == ldm.ControlNet:
		return verdict{kind: ControlNet, loadedBy: "diffusers' ControlNetModel, beside its config.json; not fewstep"}
	}
	if v, ok := transformerVerdict(s, family); ok {
		return v
	}
	return s.model(family, parts)
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
	if len(d.Kinds) > 0 {
		parts = append(parts, strings.Join(d.Kinds, ", "))
	}
	if d.MissingAlpha > 0 {
		parts = append(parts, fmt.Sprintf("%d without alpha", d.MissingAlpha))
	}
	if d.TextEncoder > 0 {
		parts = append(parts, fmt.Sprintf("and %d of text encoders", d.TextEncoder))
	}
	if n := len(d.LeftOut); n > 0 {
		parts = append(parts, fmt.Sprintf("and %d tensors that are no part of an adapter, such as %s", n, d.LeftOut[0]))
		v.leftOut = d.LeftOut
	}
	v.detail = strings.Join(parts, ", ")
	const ours = "fewstep sample --lora, fewstep lora merge"
	switch {
	case v.family != "" && !ldm.Family(v.family).Drawable():
		v.loadedBy = "ComfyUI's LoraLoader and diffusers' load_lora_weights, on its own family; not fewstep"
	case d.Mentions("base_model.model."):
		v.loadedBy = ours + "; PEFT, beside its adapter_config.json; 'fewstep convert' gives it kohya's names, which other programs load"
	case slices.Equal(d.Namings, []lora.Naming{lora.PEFT}):
		v.loadedBy = ours + "; diffusers' load_lora_weights; ComfyUI loads such names in part only: 'fewstep convert' gives it kohya's"
	case len(d.Kinds) > 0:
		v.loadedBy = ours + "; ComfyUI's LoraLoader, on its own model"
	case v.family == "":
		v.loadedBy = ours + "; ComfyUI's LoraLoader and diffusers' load_lora_weights, on a model of its widths"
	case v.family != string(ldm.SDXL):
		v.loadedBy = ours + "; ComfyUI's LoraLoader; diffusers' load_lora_weights; A1111"
	default:
		v.loadedBy = ours + "; ComfyUI's LoraLoader; diffusers' load_lora_weights; " + a1111(d)
	}
	return v
}

// a1111 says what A1111 finds of a LoRA of SDXL's.
func a1111(d lora.Description) string {
	if d.Mentions("up_blocks_0_upsamplers_0_conv") {
		return "A1111 but for one module, up_blocks.0.upsamplers.0.conv ('fewstep convert' names it so that A1111 finds it)"
	}
	return "A1111"
}
