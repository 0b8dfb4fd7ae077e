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

func (v vaeNames) toLDM(name string) (string, bool) {
	if ldm, ok := vaeOutside.toLDM(name); ok {
		return ldm, true
	}
	f := strings.SplitN(name, ".", 3)
	if len(f) < 3 {
		return "", false
	}
	side, rest := f[0], f[2]
	if f[1] == "mid_block" {
		rest, ok := vaeMiddle.toLDM(rest)
		return side + ".mid." + rest, ok
	}
	place, rest, _ := strings.Cut(rest, ".")
	i, ok := number(place)
	if !ok || i >= v.levels {
		return "", false
	}
	var level, resampler string
	switch side + "." + f[1] {
	case "encoder.down_blocks":
		level, resampler = "encoder.down."+strconv.Itoa(i), "downsample"
	case "decoder.up_blocks":
		level, resampler = "decoder.up."+strconv.Itoa(v.levels-1-i), "upsample"
	default:
		return "", false
	}
	if conv, ok := strings.CutPrefix(rest, resampler+"rs.0."); ok {
		return level + "." + resampler + "." + conv, true
	}
	if rest, ok := strings.CutPrefix(rest, "resnets."); ok {
		j, inner, _ := strings.Cut(rest, ".")
		if _, ok := number(j); !ok {
			return "", false
		}
		inner, ok = vaeResnet.toLDM(inner)
		return level + ".block." + j + "." + inner, ok
	}
	return "", false
}

func (v vaeNames) toDiffusers(name string) (string, bool) {
	if diffusers, ok := vaeOutside.toDiffusers(name); ok {
		return diffusers, true
	}
	f := strings.SplitN(name, ".", 3)
	if len(f) < 3 {
		return "", false
	}
	side, rest := f[0], f[2]
	if f[1] == "mid" {
		rest, ok := vaeMiddle.toDiffusers(rest)
		return side + ".mid_block." + rest, ok
	}
	place, rest, _ := strings.Cut(rest, ".")
	i, ok := number(place)
	if !ok || i >= v.levels {
		return "", false
	}
	var level, resampler string
	switch side + "." + f[1] {
	case "encoder.down":
		level, resampler = "encoder.down_blocks."+strconv.Itoa(i), "downsample"
	case "decoder.up":
		level, resampler = "decoder.up_blocks."+strconv.Itoa(v.levels-1-i), "upsample"
	default:
		return "", false
	}
	if conv, ok := strings.CutPrefix(rest, resampler+"."); ok {
		return level + "." + resampler + "rs.0." + conv, true
	}
	if rest, ok := strings.CutPrefix(rest, "block."); ok {
		j, inner, _ := strings.Cut(rest, ".")
		if _, ok := number(j); !ok {
			return "", false
		}
		inner, ok = vaeResnet.toDiffusers(inner)
		return level + ".resnets." + j + "." + inner, ok
	}
	return "", false
}

// isAttention says whether a diffusers tensor is a weight of the middle's attention: linear there, a 1×1 convolution
// in LDM.
func isAttention(name string) bool {
	return strings.Contains(name, ".mid_block.attentions.") && strings.HasSuffix(name, ".weight") && !strings.Contains(name, "group_norm")
}
