package lora

import (
	"errors"
	"strings"
)

// Naming is a convention for the tensor names of a LoRA file.
type Naming string

const (
	Kohya           Naming = "kohya"            // lora_unet_<path with underscores>.lora_down.weight, .alpha
	DiffusersLegacy Naming = "diffusers-legacy" // unet.<path>.lora.down.weight
	PEFT            Naming = "peft"             // unet.<path>.lora_A.weight
)

// part is what a tensor is to its module.
type part int

const (
	down part = iota
	up
	alpha
)

func (p part) String() string { return [...]string{"down", "up", "alpha"}[p] }

const kohyaPrefix = "lora_unet_"

// kohyaName is the module's name in kohya's convention.
func kohyaName(path string) string { return kohyaPrefix + strings.ReplaceAll(path, ".", "_") }

var suffixes = []struct {
	suffix string
	part   part
	naming Naming
}{
	{".lora_down.weight", down, Kohya},
	{".lora_up.weight", up, Kohya},
	{".lora.down.weight", down, DiffusersLegacy},
	{".lora.up.weight", up, DiffusersLegacy},
	{".lora_linear_layer.down.weight", down, DiffusersLegacy},
	{".lora_linear_layer.up.weight", up, DiffusersLegacy},
	{"_lora.down.weight", down, DiffusersLegacy}, // attention processors: …attn1.processor.to_q_lora
	{"_lora.up.weight", up, DiffusersLegacy},
	{".lora_A.weight", down, PEFT},
	{".lora_B.weight", up, PEFT},
	{".lora_A.default.weight", down, PEFT},
	{".lora_B.default.weight", up, PEFT},
	{".alpha", alpha, ""},
}

var textEncoderPrefixes = []string{
	"lora_te_", "lora_te1_", "lora_te2_", "lora_te3_",
	"text_encoder.", "text_encoder_2.", "text_encoder_3.",
}

var unetPrefixes = []string{"base_model.model.unet.", "base_model.model.", "unet."}

// key is a tensor name taken apart.
type key struct {
	module      string // as the file spells it, without the prefix
	flat        bool   // module has underscores for dots
	part        part
	naming      Naming // "" for alpha of a dotted module
	textEncoder bool
}

// parseKey takes a tensor name of any known convention apart.
func parseKey(name string) (key, error) {
	var k key
	for _, prefix := range textEncoderPrefixes {
		if strings.HasPrefix(name, prefix) {
			k.textEncoder = true
		}
	}
	for _, s := range suffixes {
		module, ok := strings.CutSuffix(name, s.suffix)
		if !ok {
			continue
		}
		k.module, k.part, k.naming = module, s.part, s.naming
		if s.suffix[0] == '_' {
			k.module = strings.Replace(k.module, ".processor.", ".", 1)
			if strings.HasSuffix(k.module, ".to_out") {
				k.module += ".0"
			}
		}
		break
	}
	if k.textEncoder {
		if k.module == "" {
			k.module = name
		}
		return k, nil
	}
	if k.module == "" {
		return key{}, errors.New("not the down, up or alpha of a LoRA: only plain LoRA files can be read (no DoRA, LoHa, LoKr or full differences)")
	}
	if module, ok := strings.CutPrefix(k.module, kohyaPrefix); ok {
		k.module, k.flat = module, true
		return k, nil
	}
	for _, prefix := range unetPrefixes {
		if module, ok := strings.CutPrefix(k.module, prefix); ok {
			k.module = module
			break
		}
	}
	return k, nil
}
