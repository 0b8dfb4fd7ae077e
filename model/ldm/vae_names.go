package ldm

import (
	"strconv"
	"strings"
)

// vaeNames translates tensor names of the autoencoder, whose decoder LDM counts from the finest level and diffusers
// from the coarsest.
type vaeNames struct{ levels int }

var vaeOutside = pairs{
	{"encoder.conv_in", "encoder.conv_in"},
	{"encoder.conv_norm_out", "encoder.norm_out"},
	{"encoder.conv_out", "encoder.conv_out"},
	{"decoder.conv_in", "decoder.conv_in"},
	{"decoder.conv_norm_out", "decoder.norm_out"},
	{"decoder.conv_out", "decoder.conv_out"},
	{"quant_conv", "quant_conv"},
	{"post_quant_conv", "post_quant_conv"},
}

var vaeMiddle = pairs{
	{"resnets.0", "block_1"},
	{"resnets.1", "block_2"},
	{"attentions.0.group_norm", "attn_1.norm"},
	{"attentions.0.to_q", "attn_1.q"},
	{"attentions.0.to_k", "attn_1.k"},
	{"attentions.0.to_v", "attn_1.v"},
	{"attentions.0.to_out.0", "attn_1.proj_out"},
}

var vaeResnet = pairs{
	{"norm1", "norm1"},
	{"conv1", "conv1"},
	{"norm2", "norm2"},
	{"conv2", "conv2"},
	{"conv_shortcut", "nin_shortcut"},
}

// vaeNamesOf counts the levels in names of either kind.
func vaeNamesOf(names []string) vaeNames {
	var v vaeNames
	for _, name := range names {
		f := strings.Split(name, ".")
		if len(f) < 3 || f[0] != "encoder" || f[1] != "down" && f[1] != "down_blocks" {
			continue
		}
		if i, ok := number(f[2]); ok {
			v.levels = max(v.levels, i+1)
		}
	}
	return v
}

// vaeBlocks are the blocks of each side, vaeResamplers what ends one.
var (
	vaeBlocks     = map[string]pairs{"encoder": {{"down_blocks", "down"}}, "decoder": {{"up_blocks", "up"}}}
	vaeResamplers = map[string]pairs{"encoder": {{"downsamplers.0", "downsample"}}, "decoder": {{"upsamplers.0", "upsample"}}}
	vaeMid        = pairs{{"mid_block", "mid"}}
	vaeResnets    = pairs{{"resnets", "block"}}
)

// translate gives the name of a tensor in the other layout.
func (v vaeNames) translate(name string, to layout) (string, bool) {
	if other, ok := vaeOutside.translate(name, to); ok {
		return other, true
	}
	f := strings.SplitN(name, ".", 3)
	if len(f) < 3 {
		return "", false
	}
	side, inner := f[0], f[2]
	if mid, ok := vaeMid.translate(f[1], to); ok {
		inner, ok := vaeMiddle.translate(inner, to)
		return side + "." + mid + "." + inner, ok
	}
	block, ok1 := vaeBlocks[side].translate(f[1], to)
	place, inner, _ := strings.Cut(inner, ".")
	i, ok2 := number(place)
	if !ok1 || !ok2 || i >= v.levels {
		return "", false
	}
	if side == "decoder" {
		i = v.levels - 1 - i
	}
	level := side + "." + block + "." + strconv.Itoa(i) + "."
	if resampler, ok := vaeResamplers[side].translate(inner, to); ok {
		return level + resampler, true
	}
	f = strings.SplitN(inner, ".", 3)
	if len(f) < 3 {
		return "", false
	}
	resnets, ok1 := vaeResnets.translate(f[0], to)
	_, ok2 = number(f[1])
	inner, ok3 := vaeResnet.translate(f[2], to)
	return level + resnets + "." + f[1] + "." + inner, ok1 && ok2 && ok3
}

// isAttention says whether a diffusers tensor is a weight of the middle's attention: linear there, a 1×1 convolution
// in LDM.
func isAttention(name string) bool {
	return strings.Contains(name, ".mid_block.attentions.") && strings.HasSuffix(name, ".weight") && !strings.Contains(name, "group_norm")
}

// oldAttention are the names that diffusers had before 0.17 for the middle's attention.
var oldAttention = pairs{{"to_q", "query"}, {"to_k", "key"}, {"to_v", "value"}, {"to_out.0", "proj_attn"}}

// newAttention gives a diffusers name of the autoencoder today's spelling.
func newAttention(name string) string {
	before, inner, ok := strings.Cut(name, ".mid_block.attentions.0.")
	if !ok {
		return name
	}
	if today, ok := oldAttention.translate(inner, diffusers); ok {
		inner = today
	}
	return before + ".mid_block.attentions.0." + inner
}
