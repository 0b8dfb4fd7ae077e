package ldm

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// unetNames translates UNet tensor and module names. LDM counts the resnets and resamplers of all levels through, so
// it takes the number of resnets of each level to tell them apart.
type unetNames struct {
	layers   []int        // resnets of each down block, finest first; the up block of a level has one more
	attended map[int]bool // up blocks with attention, behind which the upsampler comes third
}

// input is where a down block begins among the input blocks, the first of which is conv_in.
func (u unetNames) input(block int) int {
	at := 1
	for _, n := range u.layers[:block] {
		at += n + 1
	}
	return at
}

// output is where an up block begins among the output blocks, which come from the coarsest level.
func (u unetNames) output(block int) int {
	at := 0
	for i := range block {
		at += u.up(i) + 1
	}
	return at
}

// up is the number of resnets of an up block, less one.
func (u unetNames) up(block int) int { return u.layers[len(u.layers)-1-block] }

// split finds the block of n in a row of blocks that begin where start says and are as long as length says.
func (u unetNames) split(n int, start, length func(block int) int) (block, place int, ok bool) {
	for i := range u.layers {
		if at := start(i); n >= at && n <= at+length(i) {
			return i, n - at, true
		}
	}
	return 0, 0, false
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

// namesOfDiffusers finds the structure in diffusers' names, of all modules or tensors.
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
		case !ok1 || !ok2 || i >= maxLevels:
		case f[0] == "down_blocks" && f[2] == "resnets":
			u.layers = append(u.layers, make([]int, max(0, i+1-len(u.layers)))...)
			u.layers[i] = max(u.layers[i], j+1)
		case f[0] == "up_blocks" && f[2] == "attentions":
			u.attended[i] = true
		}
	}
	return u
}

// maxLevels keeps a number in a name from asking for memory.
const maxLevels = 64

// namesOfLDM finds the structure in LDM's names without their prefix: downsamplers part the levels.
func namesOfLDM(names []string) unetNames {
	last := 0
	ends := map[int]bool{}     // input blocks that are downsamplers
	attended := map[int]bool{} // output blocks
	for _, name := range names {
		f := strings.Split(name, ".")
		if len(f) < 4 {
			continue
		}
		n, ok := number(f[1])
		switch {
		case !ok:
		case f[0] == "output_blocks" && f[2] == "1" && f[3] != "conv":
			attended[n] = true
		case f[0] == "input_blocks":
			last = max(last, n)
			if f[3] == "op" {
				ends[n] = true
			}
		}
	}
	u := unetNames{attended: map[int]bool{}}
	before := 0
	for _, end := range append(slices.Sorted(maps.Keys(ends)), last+1) {
		u.layers = append(u.layers, end-before-1)
		before = end
	}
	for n := range attended {
		if i, _, ok := u.split(n, u.output, u.up); ok {
			u.attended[i] = true
		}
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
	if other, ok := unetOutside.translate(name, ldm); ok {
		return other, true
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
	if f[0] != "mid_block" && i >= len(u.layers) {
		return "", false
	}
	switch f[2] {
	case "resnets":
		var ok bool
		if inner, ok = unetResnet.translate(inner, ldm); !ok {
			return "", false
		}
	case "downsamplers":
		rest, ok := strings.CutPrefix(inner, "conv")
		if !ok {
			return "", false
		}
		inner = "op" + rest
	}
	join := func(block string, at, slot int, ok bool) (string, bool) {
		return block + "." + strconv.Itoa(at) + "." + strconv.Itoa(slot) + "." + inner, ok
	}
	switch f[0] + "." + f[2] {
	case "down_blocks.resnets":
		return join("input_blocks", u.input(i)+j, 0, j < u.layers[i])
	case "down_blocks.attentions":
		return join("input_blocks", u.input(i)+j, 1, j < u.layers[i])
	case "down_blocks.downsamplers":
		return join("input_blocks", u.input(i)+u.layers[i], 0, j == 0)
	case "mid_block.resnets":
		return "middle_block." + strconv.Itoa(2*j) + "." + inner, true
	case "mid_block.attentions":
		return "middle_block." + strconv.Itoa(2*j+1) + "." + inner, true
	case "up_blocks.resnets":
		return join("output_blocks", u.output(i)+j, 0, j <= u.up(i))
	case "up_blocks.attentions":
		return join("output_blocks", u.output(i)+j, 1, j <= u.up(i))
	case "up_blocks.upsamplers":
		return join("output_blocks", u.output(i)+u.up(i), u.upsampler(i), j == 0)
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
	if other, ok := unetOutside.translate(name, diffusers); ok {
		return other, true
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
		inner, ok = unetResnet.translate(inner, diffusers)
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
	block, start, length := "up_blocks", u.output, u.up
	if f[0] == "input_blocks" {
		block, start, length = "down_blocks", u.input, func(i int) int { return u.layers[i] }
	} else if f[0] != "output_blocks" {
		return "", false
	}
	i, j, ok := u.split(n, start, length)
	if !ok {
		return "", false
	}
	level := block + "." + strconv.Itoa(i)
	inner := strings.Join(f[3:], ".")
	atEnd := j == length(i)
	switch {
	case block == "down_blocks" && atEnd:
		return level + ".downsamplers.0.conv." + strings.Join(f[4:], "."), slot == 0 && f[3] == "op" && len(f) > 4
	case slot == 0:
		inner, ok := unetResnet.translate(inner, diffusers)
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
		if other, ok := u.toLDM(path); ok {
			paths[path] = other
		}
	}
	return paths
}

// LaidOutAsSDXL says whether a UNet of the given modules has as many resnets on every level, and attention before every
// upsampler: what programs take for granted that count a LoRA's blocks through.
func LaidOutAsSDXL(known []string) bool {
	u := namesOfDiffusers(known)
	for block, n := range u.layers {
		if n != u.layers[0] || block < len(u.layers)-1 && !u.attended[block] {
			return false
		}
	}
	return len(u.layers) > 0
}

// layout is one of the two ways of naming tensors.
type layout int

const (
	diffusers layout = iota
	ldm
)

// pairs are beginnings of names, diffusers' and LDM's.
type pairs [][2]string

// translate replaces the beginning of a name in the other layout by that in the layout to.
func (p pairs) translate(name string, to layout) (string, bool) {
	for _, e := range p {
		if rest, ok := strings.CutPrefix(name, e[1-to]); ok && (rest == "" || rest[0] == '.') {
			return e[to] + rest, true
		}
	}
	return "", false
}
