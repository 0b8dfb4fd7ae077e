package ldm

import (
	"slices"
	"strings"

	"fewstep/model/weights"
)

// Family is what kind of model a file with LDM's names is part of.
type Family string

// Families. Those that are not [Family.Readable] are told apart to be named.
const (
	SDXL           Family = "SDXL"
	SDXLRefiner    Family = "SDXL refiner"
	SDXLInpainting Family = "SDXL inpainting"
	SD1            Family = "Stable Diffusion 1"
	SD2            Family = "Stable Diffusion 2"
	SDInpainting   Family = "Stable Diffusion inpainting"
	SD3            Family = "Stable Diffusion 3"
	Flux           Family = "Flux"
	SDXLEdit       Family = "SDXL with further inputs"
	Playground     Family = "Playground 2.5"
	CosXL          Family = "CosXL"
	ControlNet     Family = "ControlNet"
	LoRA           Family = "LoRA"
	Unknown        Family = "unknown"
)

// Sentence says what a file of the family is, and what sets it apart.
func (f Family) Sentence() string {
	switch f {
	case SDXL:
		return "a single-file checkpoint of SDXL's family"
	case SDXLRefiner:
		return "SDXL's refiner, which has one text encoder and other micro-conditions"
	case SDXLInpainting:
		return "an inpainting model of SDXL's family, whose UNet takes a mask and a second picture"
	case SD1:
		return "a model of Stable Diffusion 1.x"
	case SD2:
		return "a model of Stable Diffusion 2.x"
	case SDInpainting:
		return "a Stable Diffusion inpainting model, whose UNet takes a mask and a second picture"
	case SD3:
		return "Stable Diffusion 3, a transformer instead of a UNet"
	case Flux:
		return "Flux, a transformer instead of a UNet"
	case SDXLEdit:
		return "a model of SDXL's family whose UNet takes further inputs, such as a picture to edit"
	case CosXL:
		return "CosXL, which has SDXL's networks but predicts v under EDM's noise"
	case Playground:
		return "Playground 2.5, which has SDXL's networks but EDM's noise and scaled latents"
	case ControlNet:
		return "a ControlNet, not a model by itself"
	case LoRA:
		return "a LoRA, not a model"
	}
	return "not a model: it has no tensor of a UNet, of an autoencoder or of a text encoder"
}

// Identify tells the family by names and shapes.
func Identify(src weights.Source) Family { return look(src).family }

// Part is a component in a file.
type Part struct {
	Component string
	Prefix    string // before every name
	LDM       bool   // named as Stability AI's code or OpenCLIP does, not as diffusers and transformers do
}

// Contents are the family and the components of a file or folder, by names and shapes.
func Contents(src weights.Source) (Family, []Part) {
	c := look(src)
	var parts []Part
	for _, s := range c.sites {
		parts = append(parts, Part{s.component, s.prefix, s.names == ldm})
	}
	return c.family, parts
}

// look finds the components of a file and tells its family.
func look(src weights.Source) content {
	w := unwrapped(src)
	c := content{src: w, sites: findSites(w.names)}
	c.family = c.identify()
	return c
}

// content is what a file holds.
type content struct {
	src    wrapped
	sites  []site
	family Family
}

// site is where a component lies.
func (c content) site(component string) (site, bool) {
	for _, s := range c.sites {
		if s.component == component {
			return s, true
		}
	}
	return site{}, false
}

func (c content) has(name string) bool { return c.src.plain[name] != "" }

// ends says whether a name ends so, whatever stands before it.
func (c content) ends(suffix string) bool {
	return slices.ContainsFunc(c.src.names, func(name string) bool { return name == suffix || strings.HasSuffix(name, "."+suffix) })
}

// foreign are the families that a tensor of their own tells, before anything else is asked.
var foreign = []struct {
	suffix string
	family Family
}{
	{"double_blocks.0.img_attn.norm.key_norm.scale", Flux}, {"double_blocks.0.img_attn.qkv.weight", Flux},
	{"joint_blocks.0.context_block.adaLN_modulation.1.bias", SD3},
	{"control_model.time_embed.0.weight", ControlNet}, {"controlnet_cond_embedding.conv_in.weight", ControlNet},
	{"lora_controlnet", ControlNet}, {"input_hint_block.0.weight", ControlNet},
	{"edm_mean", Playground}, {"edm_std", Playground}, {"edm_vpred.sigma_max", CosXL},
}

func (c content) identify() Family {
	for _, f := range foreign {
		if c.ends(f.suffix) {
			return f.family
		}
	}
	if len(c.sites) == 0 {
		if slices.ContainsFunc(c.src.names, adapter.MatchString) {
			return LoRA
		}
		return Unknown
	}
	if c.has("conditioner.embedders.0.model.positional_embedding") || c.has("conditioner.embedders.0.model.text_projection") {
		return SDXLRefiner
	}
	s, ok := c.site(UNet)
	if !ok {
		if c.has("cond_stage_model.model.token_embedding.weight") {
			return SD2
		}
		if text, ok := c.site(Text); ok && strings.HasPrefix(text.prefix, "cond_stage_model.") {
			return SD1
		}
		return SDXL // a part that its family's models share
	}
	u := unetShapes{c, s}
	first := u.dim("conv_in.weight", "input_blocks.0.0.weight", 1)
	text := u.context()
	_, second := c.site(Text2)
	switch {
	case u.has("add_embedding.linear_1", "label_emb.0.0") || second && !u.has("time_embedding.linear_1", "time_embed.0"):
		switch {
		case text == 1280:
			return SDXLRefiner
		case first == 9:
			return SDXLInpainting
		case first > 4:
			return SDXLEdit
		}
		return SDXL
	case !u.has("time_embedding.linear_1", "time_embed.0"):
		return SDXL // by what is there; what is missing, its config tells
	case first > 4:
		return SDInpainting
	case text == 1024 || c.has("cond_stage_model.model.token_embedding.weight"):
		return SD2
	}
	return SD1
}

// unetShapes reads a UNet's shapes under either naming.
type unetShapes struct {
	content
	site site
}

func (u unetShapes) name(diffusersName, ldmName string) string {
	if u.site.names == ldm {
		return u.site.prefix + ldmName
	}
	return u.site.prefix + diffusersName
}

// has says whether a module has a weight or a bias.
func (u unetShapes) has(diffusersName, ldmName string) bool {
	name := u.name(diffusersName, ldmName)
	return u.content.has(name+".weight") || u.content.has(name+".bias")
}

func (u unetShapes) dim(diffusersName, ldmName string, axis int) int {
	return u.dimOf(u.name(diffusersName, ldmName), axis)
}

func (u unetShapes) dimOf(name string, axis int) int {
	t, err := u.src.Tensor(name)
	if err != nil || axis >= len(t.Shape) {
		return 0
	}
	return t.Shape[axis]
}

// context is the width of the text that cross-attention takes, 0 where no tensor says.
func (u unetShapes) context() int {
	for _, name := range u.src.names {
		if strings.HasPrefix(name, u.site.prefix) && strings.HasSuffix(name, "attn2.to_k.weight") {
			return u.dimOf(name, 1)
		}
	}
	return 0
}
