package lora

import (
	"strconv"
	"strings"
)

// sd-scripts trains SDXL on the LDM form of the UNet, so many published LoRA
// files name its blocks (input_blocks.4.1 for down_blocks.1.attentions.0).

var ldmOutside = map[string]string{
	"conv_in":                 "input_blocks.0.0",
	"conv_out":                "out.2",
	"time_embedding.linear_1": "time_embed.0",
	"time_embedding.linear_2": "time_embed.2",
	"add_embedding.linear_1":  "label_emb.0.0",
	"add_embedding.linear_2":  "label_emb.0.2",
}

var ldmResnet = map[string]string{
	"conv1":         "in_layers.2",
	"conv2":         "out_layers.3",
	"time_emb_proj": "emb_layers.1",
	"conv_shortcut": "skip_connection",
}

// ldmPaths gives the LDM path of each diffusers path that has one, for a UNet
// that consists of the given modules.
func ldmPaths(known []string) map[string]string {
	layers := 0 // resnets per down block
	attended := map[string]bool{}
	for _, path := range known {
		f := strings.Split(path, ".")
		if len(f) < 4 {
			continue
		}
		if j, err := strconv.Atoi(f[3]); err == nil && f[0] == "down_blocks" && f[2] == "resnets" {
			layers = max(layers, j+1)
		}
		if f[2] == "attentions" {
			attended[f[0]+f[1]] = true
		}
	}
	paths := map[string]string{}
	for _, path := range known {
		if ldm := ldmPath(path, layers, attended); ldm != "" {
			paths[path] = ldm
		}
	}
	return paths
}

func ldmPath(path string, layers int, attended map[string]bool) string {
	if ldm, ok := ldmOutside[path]; ok {
		return ldm
	}
	f := strings.Split(path, ".")
	if f[0] == "mid_block" {
		f = append([]string{"mid_block", "0"}, f[1:]...)
	}
	if len(f) < 5 {
		return ""
	}
	i, err1 := strconv.Atoi(f[1])
	j, err2 := strconv.Atoi(f[3])
	if err1 != nil || err2 != nil {
		return ""
	}
	inner := strings.Join(f[4:], ".")
	if f[2] == "resnets" {
		if inner = ldmResnet[inner]; inner == "" {
			return ""
		}
	}
	join := func(block string, at, slot int, inner string) string {
		return block + "." + strconv.Itoa(at) + "." + strconv.Itoa(slot) + "." + inner
	}
	switch f[0] + "." + f[2] {
	case "down_blocks.resnets":
		return join("input_blocks", 1+i*(layers+1)+j, 0, inner)
	case "down_blocks.attentions":
		return join("input_blocks", 1+i*(layers+1)+j, 1, inner)
	case "down_blocks.downsamplers":
		return join("input_blocks", (i+1)*(layers+1), 0, "op")
	case "mid_block.resnets":
		return "middle_block." + strconv.Itoa(2*j) + "." + inner
	case "mid_block.attentions":
		return "middle_block." + strconv.Itoa(2*j+1) + "." + inner
	case "up_blocks.resnets":
		return join("output_blocks", i*(layers+1)+j, 0, inner)
	case "up_blocks.attentions":
		return join("output_blocks", i*(layers+1)+j, 1, inner)
	case "up_blocks.upsamplers":
		slot := 1
		if attended["up_blocks"+f[1]] {
			slot = 2
		}
		return join("output_blocks", i*(layers+1)+layers, slot, "conv")
	}
	return ""
}
