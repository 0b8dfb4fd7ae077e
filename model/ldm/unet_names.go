package ldm

import (
	"strconv"
	"strings"
)

// unetNames translates UNet tensor and module names. LDM counts the resnets and resamplers of all levels through, so
// it takes the number of resnets per down block to split them.
type unetNames struct {
	layers   int          // resnets per down block; an up block has one more
	attended map[int]bool // up blocks with attention, behind which the upsampler comes third
}

var unetOutside = pairs{
	{"conv_in", "input_blocks.0.0"},
	{"conv_norm_out", "out.0"},
	{"conv_out", "out.2"},
	{"time_embedding.linear_1", "time_embed.0"},
	{"time_embedding.linear_2", "time_embed.2"},
	{"add_embedding.linear_1", "label_emb.0.0"},
	{"add_embedding.linear_2", "label_emb.0.2"},
}

var unetResnet = pairs{
	{"norm1", "in_layers.0"},
	{"conv1", "in_layers.2"},
	{"norm2", "out_layers.0"},
	{"conv2", "out_layers.3"},
	{"time_emb_proj", "emb_layers.1"},
	{"conv_shortcut", "skip_connection"},
}

// namesOfDiffusers finds the structure in diffusers' names, of modules or of tensors.
func namesOfDiffusers(names []string) unetNames {
	u := unetNames{attended: map[int]bool{}}
	for _, name := range names {
		f := strings.Split(name, ".")
		if len(f) < 4 {
			continue
		}
		i, ok1 := number(f[1])
		j, ok2 := number(f[3])
		switch {
		case !ok1 || !ok2:
		case f[0] == "down_blocks" && f[2] == "resnets":
			u.layers = max(u.layers, j+1)
		case f[0] == "up_blocks" && f[2] == "attentions":
			u.attended[i] = true
		}
	}
	return u
}

// namesOfLDM finds the structure in LDM's names without their prefix: downsamplers part the levels.
func namesOfLDM(names []string) unetNames {
	first, last := 0, 0 // downsampler, block
	var attended []int  // output blocks
	for _, name := range names {
		f := strings.Split(name, ".")
		if len(f) < 4 {
			continue
		}
		n, ok := number(f[1])
		switch {
		case !ok:
		case f[0] == "output_blocks" && f[2] == "1" && f[3] != "conv":
			attended = append(attended, n)
		case f[0] == "input_blocks":
			last = max(last, n)
			if f[3] == "op" && (first == 0 || n < first) {
				first = n
			}
		}
	}
	if first == 0 { // one level
		first = last + 1
	}
	u := unetNames{layers: first - 1, attended: map[int]bool{}}
	for _, n := range attended {
		u.attended[n/first] = true
	}
	return u
}

// number reads a number as it stands in names, without sign and leading zeros.
func number(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && strconv.Itoa(n) == s && n >= 0 && n < 1<<20
}

// toLDM gives the LDM name of a diffusers tensor or module.
func (u unetNames) toLDM(name string) (string, bool) {
	if ldm, ok := unetOutside.toLDM(name); ok {
		return ldm, true
	}
	f := strings.Split(name, ".")
	if f[0] == "mid_block" {
		f = append([]string{"mid_block", "0"}, f[1:]...)
	}
	if len(f) < 5 {
		return "", false
	}
	i, ok1 := number(f[1])
	j, ok2 := number(f[3])
	if !ok1 || !ok2 {
		return "", false
	}
	inner := strings.Join(f[4:], ".")
	switch f[2] {
	case "resnets":
		var ok bool
		if inner, ok = unetResnet.toLDM(inner); !ok {
			return "", false
		}
	case "downsamplers":
		rest, ok := strings.CutPrefix(inner, "conv")
		if !ok {
			return "", false
		}
		inner = "op" + rest
	}
	join := func(block string, at, slot int) (string, bool) {
		return block + "." + strconv.Itoa(at) + "." + strconv.Itoa(slot) + "." + inner, true
	}
	switch f[0] + "." + f[2] {
	case "down_blocks.resnets":
		return join("input_blocks", 1+i*(u.layers+1)+j, 0)
	case "down_blocks.attentions":
		return join("input_blocks", 1+i*(u.layers+1)+j, 1)
	case "down_blocks.downsamplers":
		return join("input_blocks", (i+1)*(u.layers+1), 0)
	case "mid_block.resnets":
		return "middle_block." + strconv.Itoa(2*j) + "." + inner, true
	case "mid_block.attentions":
		return "middle_block." + strconv.Itoa(2*j+1) + "." + inner, true
	case "up_blocks.resnets":
		return join("output_blocks", i*(u.layers+1)+j, 0)
	case "up_blocks.attentions":
		return join("output_blocks", i*(u.layers+1)+j, 1)
	case "up_blocks.upsamplers":
		return join("output_blocks", i*(u.layers+1)+u.layers, u.upsampler(i))
	}
	return "", false
}

// upsampler is the place of an up block's upsampler in its last output block: behind the attention, if there is one.
func (u unetNames) upsampler(block int) int {
	if u.attended[block] {
		return 2
	}
	return 1
}

// toDiffusers gives the diffusers name of an LDM tensor, which must come without its prefix.
func (u unetNames) toDiffusers(name string) (string, bool) {
	if diffusers, ok := unetOutside.toDiffusers(name); ok {
		return diffusers, true
	}
	f := strings.Split(name, ".")
	if f[0] == "middle_block" && len(f) > 2 {
		k, ok := number(f[1])
		inner := strings.Join(f[2:], ".")
		if !ok {
			return "", false
		}
		if k%2 == 1 {
			return "mid_block.attentions." + strconv.Itoa(k/2) + "." + inner, true
		}
		inner, ok = unetResnet.toDiffusers(inner)
		return "mid_block.resnets." + strconv.Itoa(k/2) + "." + inner, ok
	}
	if len(f) < 4 {
		return "", false
	}
	n, ok1 := number(f[1])
	slot, ok2 := number(f[2])
	if !ok1 || !ok2 {
		return "", false
	}
	block := "up_blocks"
	if f[0] == "input_blocks" {
		block = "down_blocks"
		n-- // the first is conv_in
	} else if f[0] != "output_blocks" {
		return "", false
	}
	i, j := n/(u.layers+1), n%(u.layers+1)
	level := block + "." + strconv.Itoa(i)
	inner := strings.Join(f[3:], ".")
	atEnd := j == u.layers
	switch {
	case n < 0:
		return "", false
	case block == "down_blocks" && atEnd:
		return level + ".downsamplers.0.conv." + strings.Join(f[4:], "."), slot == 0 && f[3] == "op" && len(f) > 4
	case slot == 0:
		inner, ok := unetResnet.toDiffusers(inner)
		return level + ".resnets." + strconv.Itoa(j) + "." + inner, ok
	case block == "up_blocks" && f[3] == "conv":
		return level + ".upsamplers.0." + inner, atEnd && slot == u.upsampler(i)
	case slot == 1:
		return level + ".attentions." + strconv.Itoa(j) + "." + inner, true
	}
	return "", false
}

// UNetModules gives the LDM path of each diffusers module path that has one, for a UNet that consists of the given
// modules. sd-scripts trains SDXL on LDM's form, so many LoRA files name its blocks.
func UNetModules(known []string) map[string]string {
	u := namesOfDiffusers(known)
	paths := map[string]string{}
	for _, path := range known {
		if ldm, ok := u.toLDM(path); ok {
			paths[path] = ldm
		}
	}
	return paths
}

// pairs are beginnings of names, diffusers' and LDM's.
type pairs []struct{ diffusers, ldm string }

func (p pairs) toLDM(name string) (string, bool) {
	for _, e := range p {
		if rest, ok := strings.CutPrefix(name, e.diffusers); ok && (rest == "" || rest[0] == '.') {
			return e.ldm + rest, true
		}
	}
	return "", false
}

func (p pairs) toDiffusers(name string) (string, bool) {
	for _, e := range p {
		if rest, ok := strings.CutPrefix(name, e.ldm); ok && (rest == "" || rest[0] == '.') {
			return e.diffusers + rest, true
		}
	}
	return "", false
}
