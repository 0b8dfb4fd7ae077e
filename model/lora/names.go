package lora

import (
	"fmt"
	"regexp"
	"strings"

	"fewstep/model/ldm"
)

// Naming is a convention for the tensor names of a LoRA file.
type Naming string

const (
	Kohya           Naming = "kohya"            // lora_unet_<path with underscores>.lora_down.weight, .alpha
	DiffusersLegacy Naming = "diffusers-legacy" // unet.<path>.lora.down.weight
	PEFT            Naming = "peft"             // unet.<path>.lora_A.weight
)

// part is what a tensor is to its module.
type part string

const (
	down      part = "down"
	up        part = "up"
	mid       part = "mid" // between down and up of a convolution
	alpha     part = "alpha"
	scalar    part = "scalar"     // a learned factor
	magnitude part = "dora_scale" // of each row or column of the weight, DoRA
	upBias    part = "bias of up"
	diff      part = "diff"   // the whole change of a weight
	diffBias  part = "diff_b" // and of a bias
	// LyCORIS's factors are called by their own names, hada_w1_a and so on.
)

// tails are the ends of tensor names, behind the module, with the part that they are. A part in angle brackets is the name
// that PEFT's users give an adapter.
var tails = []struct {
	end    *regexp.Regexp
	part   part // "" = the first group
	naming Naming
}{
	{tail(`\.lora_down\.weight`), down, Kohya},
	{tail(`\.lora_up\.weight`), up, Kohya},
	{tail(`\.lora_mid\.weight`), mid, Kohya},
	{tail(`(?:\.lora|_lora|\.lora_linear_layer)\.down\.weight`), down, DiffusersLegacy},
	{tail(`(?:\.lora|_lora|\.lora_linear_layer)\.up\.weight`), up, DiffusersLegacy},
	{tail(`\.lora_A(?:\.(?P<adapter>[^.]+))?\.weight`), down, PEFT},
	{tail(`\.lora_B(?:\.(?P<adapter>[^.]+))?\.weight`), up, PEFT},
	{tail(`\.lora_B(?:\.(?P<adapter>[^.]+))?\.bias`), upBias, PEFT},
	{tail(`\.lora_magnitude_vector(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?`), magnitude, PEFT},
	{tail(`\.dora_scale`), magnitude, ""},
	{tail(`\.alpha`), alpha, ""},
	{tail(`\.scalar`), scalar, ""},
	{tail(`\.(hada_(?:w1_a|w1_b|w2_a|w2_b|t1|t2)|lokr_(?:w1|w1_a|w1_b|w2|w2_a|w2_b|t2))(?:\.(?P<adapter>[^.]+))?`), "", ""},
	{tail(`\.(?:diff|w_norm)`), diff, ""},
	{tail(`\.(?:diff_b|b_norm)`), diffBias, ""},
}

func tail(end string) *regexp.Regexp { return regexp.MustCompile("(?:" + end + ")$") }

// key is a tensor name taken apart.
type key struct {
	module  string // as the file spells it, prefix and all
	part    part
	naming  Naming // "" where the part does not tell
	adapter string // the name that PEFT's user gave, or ""
}

// parseKey takes a tensor name of any known convention apart. ok is false for a tensor of which no part of an adapter is
// known that ends so.
func parseKey(name string) (k key, ok bool) {
	for _, t := range tails {
		at := t.end.FindStringSubmatchIndex(name)
		if at == nil || at[0] == 0 {
			continue
		}
		k = key{module: name[:at[0]], part: t.part, naming: t.naming}
		group := func(i int) string {
			if i < 1 || 2*i+1 >= len(at) || at[2*i] < 0 {
				return ""
			}
			return name[at[2*i]:at[2*i+1]]
		}
		k.adapter = group(t.end.SubexpIndex("adapter"))
		if k.part == "" {
			k.part = part(group(1))
		}
		if strings.HasPrefix(name[at[0]:], "_lora.") { // an attention processor of older diffusers
			k.module = strings.Replace(k.module, ".processor.", ".", 1)
			if strings.HasSuffix(k.module, ".to_out") {
				k.module += ".0"
			}
		}
		return k, true
	}
	return key{module: name}, false
}

const kohyaPrefix = "lora_unet_"

// Blocks is how a written file names a UNet's blocks, behind kohya's prefix.
type Blocks string

const (
	// SGM is the naming of Stability AI's code, on which sd-scripts trains SDXL: lora_unet_input_blocks_4_1_…. ComfyUI,
	// A1111, Forge, sd-scripts and diffusers load all of SDXL's 788 modules under it.
	SGM Blocks = "sgm"
	// Diffusers is the naming of the published few-step LoRAs: lora_unet_down_blocks_1_attentions_0_…. A1111 misses one
	// of the 788 modules under it, up_blocks.0.upsamplers.0.conv, and does not say so.
	Diffusers Blocks = "diffusers"
)

// ParseBlocks reads a naming; "" is SGM.
func ParseBlocks(name string) (Blocks, error) {
	switch b := Blocks(name); b {
	case "", SGM:
		return SGM, nil
	case Diffusers:
		return b, nil
	}
	return "", fmt.Errorf("unknown names %q of a LoRA's blocks: choose %s or %s", name, SGM, Diffusers)
}

// namer gives modules kohya's names, over blocks of the UNet that has the given layers. A UNet whose blocks are not laid
// out as SDXL's, so that diffusers would take SGM's numbers for others, has diffusers' names.
func (b Blocks) namer(layers []string) func(path string) string {
	names := map[string]string{}
	if b != Diffusers && ldm.LaidOutAsSDXL(layers) {
		names = ldm.UNetModules(layers)
	}
	return func(path string) string {
		if name, ok := names[path]; ok {
			path = name
		}
		return kohyaPrefix + flat(path)
	}
}
