package ldm

import (
	"strings"

	"fewstep/model/weights"
)

// Family is what kind of model a file with LDM's names is part of.
type Family string

// Families. Those other than SDXL are told apart to be named, not to be read.
const (
	SDXL           Family = "SDXL"
	SDXLRefiner    Family = "SDXL refiner"
	SDXLInpainting Family = "SDXL inpainting"
	SD1            Family = "Stable Diffusion 1"
	SD2            Family = "Stable Diffusion 2"
	SDInpainting   Family = "Stable Diffusion inpainting"
	SD3            Family = "Stable Diffusion 3"
	Flux           Family = "Flux"
	Playground     Family = "Playground 2.5"
	ControlNet     Family = "ControlNet"
	Diffusers      Family = "diffusers"
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
		return "Stable Diffusion 1.x, which has one text encoder and no micro-conditions"
	case SD2:
		return "Stable Diffusion 2.x, which has one text encoder and no micro-conditions"
	case SDInpainting:
		return "a Stable Diffusion inpainting model, whose UNet takes a mask and a second picture"
	case SD3:
		return "Stable Diffusion 3, a transformer instead of a UNet"
	case Flux:
		return "Flux, a transformer instead of a UNet"
	case Playground:
		return "Playground 2.5, which has SDXL's networks but EDM's noise and scaled latents"
	case ControlNet:
		return "a ControlNet, not a model by itself"
	case Diffusers:
		return "a component with diffusers' names, not a single-file checkpoint"
	case LoRA:
		return "a LoRA, not a model"
	}
	return "not a single-file checkpoint (it has no tensor model.diffusion_model.*)"
}

// Identify tells the family by names and shapes.
func Identify(src weights.Source) Family {
	names := src.Names()
	has := map[string]bool{}
	var lora, diffusers, ldm bool
	for _, name := range names {
		has[strings.TrimPrefix(name, prefixes[UNet])] = true
		has[name] = true
		lora = lora || strings.Contains(name, "lora_") || strings.Contains(name, ".lora.")
		diffusers = diffusers || strings.HasPrefix(name, "down_blocks.") || strings.HasPrefix(name, "encoder.down_blocks.")
		ldm = ldm || strings.HasPrefix(name, prefixes[UNet]) || strings.HasPrefix(name, prefixes[VAE])
	}
	shape := func(name string, dim int) int {
		t, err := src.Tensor(prefixes[UNet] + name)
		if err != nil || dim >= len(t.Shape) {
			return 0
		}
		return t.Shape[dim]
	}
	inputs := shape("input_blocks.0.0.weight", 1)
	switch {
	case has["double_blocks.0.img_attn.norm.key_norm.scale"] || has["double_blocks.0.img_attn.qkv.weight"]:
		return Flux
	case has["joint_blocks.0.context_block.adaLN_modulation.1.bias"]:
		return SD3
	case has["control_model.time_embed.0.weight"] || has["controlnet_cond_embedding.conv_in.weight"]:
		return ControlNet
	case has["edm_mean"] || has["edm_std"]:
		return Playground
	case lora:
		return LoRA
	case !ldm && diffusers:
		return Diffusers
	case !ldm:
		return Unknown
	case has["conditioner.embedders.0.model.positional_embedding"] || has["conditioner.embedders.0.model.text_projection"]:
		return SDXLRefiner
	case has["label_emb.0.0.weight"] && inputs > 4:
		return SDXLInpainting
	case has["label_emb.0.0.weight"] || !has["time_embed.0.weight"] && has["first_stage_model.encoder.conv_in.weight"]:
		return SDXL
	case inputs == 9:
		return SDInpainting
	case has["cond_stage_model.model.token_embedding.weight"] || shape("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 1) == 1024:
		return SD2
	case has["time_embed.0.weight"]:
		return SD1
	}
	return Unknown
}
