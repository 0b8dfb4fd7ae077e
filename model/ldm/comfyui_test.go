package ldm_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What ComfyUI finds out from names and shapes, and the networks that it then builds.

// detected is what ComfyUI finds out about a UNet with LDM's names.
type detected struct {
	in, channels, adm, context int
	blocks, widths             []int // of each level: residual blocks, width over channels
	depth, depthOut            []int // transformer blocks behind each residual block, on the way down and from the top's end up
	middle                     int
	linear                     bool
}

var sdxlDetected = detected{in: 4, channels: 320, adm: 2816, context: 2048, blocks: []int{2, 2, 2}, widths: []int{1, 2, 4},
	depth: []int{0, 0, 2, 2, 10, 10}, depthOut: []int{0, 0, 0, 2, 2, 2, 10, 10, 10}, middle: 10, linear: true}

// count is how many consecutive numbers from 0 on stand behind the prefix in some name.
func (s state) count(prefix string) int {
	has := map[string]bool{}
	for name := range s {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			number, _, _ := strings.Cut(rest, ".")
			has[number] = true
		}
	}
	n := 0
	for has[strconv.Itoa(n)] {
		n++
	}
	return n
}

func detect(s state) (d detected) {
	d.in, d.channels, d.adm = s["input_blocks.0.0.weight"][1], s["input_blocks.0.0.weight"][0], s["label_emb.0.0.weight"][1]
	transformers := func(block string) int {
		n := s.count(block + ".1.transformer_blocks.")
		if n > 0 {
			d.context, d.linear = s[block+".1.transformer_blocks.0.attn2.to_k.weight"][1], len(s[block+".1.proj_in.weight"]) == 2
		}
		return n
	}
	number := s.count("input_blocks.")
	res, width := 0, 0
	for i := range number {
		in, out := fmt.Sprintf("input_blocks.%d", i), fmt.Sprintf("output_blocks.%d", number-1-i)
		if s[in+".0.op.weight"] != nil {
			d.blocks, d.widths = append(d.blocks, res), append(d.widths, width)
			res, width = 0, 0
			d.depthOut = append(d.depthOut, transformers(out))
			continue
		}
		if s[in+".0.in_layers.0.weight"] != nil {
			res, width = res+1, s[in+".0.out_layers.3.weight"][0]/d.channels
			d.depth = append(d.depth, transformers(in))
		}
		if s[out+".0.in_layers.0.weight"] != nil {
			d.depthOut = append(d.depthOut, transformers(out))
		}
	}
	d.blocks, d.widths = append(d.blocks, res), append(d.widths, width)
	d.middle = s.count("middle_block.1.transformer_blocks.")
	return d
}

// network collects the parameters of a network.
type network state

func (n network) layer(name string, shape ...int) {
	n[name+".weight"], n[name+".bias"] = shape, shape[:1]
}

func (n network) matrix(name string, out, in int) { n[name+".weight"] = []int{out, in} }

// parameters are those of the UNet that ComfyUI builds, by LDM's names.
func (d detected) parameters() state {
	n, time := network{}, 4*d.channels
	residual := func(at string, in, out int) {
		n.layer(at+".in_layers.0", in)
		n.layer(at+".in_layers.2", out, in, 3, 3)
		n.layer(at+".emb_layers.1", out, time)
		n.layer(at+".out_layers.0", out)
		n.layer(at+".out_layers.3", out, out, 3, 3)
		if in != out {
			n.layer(at+".skip_connection", out, in, 1, 1)
		}
	}
	transformer := func(at string, width, depth int) {
		n.layer(at+".norm", width)
		n.layer(at+".proj_in", width, width)
		n.layer(at+".proj_out", width, width)
		for i := range depth {
			block := fmt.Sprintf("%s.transformer_blocks.%d.", at, i)
			for k, context := range []int{width, d.context} {
				attention := fmt.Sprintf("%sattn%d.", block, k+1)
				n.matrix(attention+"to_q", width, width)
				n.matrix(attention+"to_k", width, context)
				n.matrix(attention+"to_v", width, context)
				n.layer(attention+"to_out.0", width, width)
			}
			for k := range 3 {
				n.layer(fmt.Sprintf("%snorm%d", block, k+1), width)
			}
			n.layer(block+"ff.net.0.proj", 8*width, width)
			n.layer(block+"ff.net.2", width, 4*width)
		}
	}
	for _, e := range []struct {
		name string
		in   int
	}{{"time_embed", d.channels}, {"label_emb.0", d.adm}} {
		n.layer(e.name+".0", time, e.in)
		n.layer(e.name+".2", time, time)
	}
	n.layer("input_blocks.0.0", d.channels, d.in, 3, 3)
	width, at := d.channels, 1
	skips, depth, depthOut := []int{width}, slices.Clone(d.depth), slices.Clone(d.depthOut)
	for level, blocks := range d.blocks {
		for range blocks {
			next := d.widths[level] * d.channels
			residual(fmt.Sprintf("input_blocks.%d.0", at), width, next)
			if depth[0] > 0 {
				transformer(fmt.Sprintf("input_blocks.%d.1", at), next, depth[0])
			}
			width, depth, at = next, depth[1:], at+1
			skips = append(skips, width)
		}
		if level < len(d.blocks)-1 {
			n.layer(fmt.Sprintf("input_blocks.%d.0.op", at), width, width, 3, 3)
			skips, at = append(skips, width), at+1
		}
	}
	residual("middle_block.0", width, width)
	transformer("middle_block.1", width, d.middle)
	residual("middle_block.2", width, width)
	at = 0
	for level := len(d.blocks) - 1; level >= 0; level-- {
		for k := range d.blocks[level] + 1 {
			next, last := d.widths[level]*d.channels, len(skips)-1
			residual(fmt.Sprintf("output_blocks.%d.0", at), width+skips[last], next)
			width, skips = next, skips[:last]
			place := 1
			if deep := depthOut[len(depthOut)-1]; deep > 0 {
				transformer(fmt.Sprintf("output_blocks.%d.1", at), width, deep)
				place = 2
			}
			depthOut = depthOut[:len(depthOut)-1]
			if level > 0 && k == d.blocks[level] {
				n.layer(fmt.Sprintf("output_blocks.%d.%d.conv", at, place), width, width, 3, 3)
			}
			at++
		}
	}
	n.layer("out.0", width)
	n.layer("out.2", d.in, width, 3, 3)
	return state(n)
}

// autoencoder are the parameters of the VAE that ComfyUI builds for a file with encoder.down.2.downsample.
func autoencoder() state {
	n, widths := network{}, []int{128, 256, 512, 512}
	residual := func(at string, in, out int) {
		n.layer(at+".norm1", in)
		n.layer(at+".conv1", out, in, 3, 3)
		n.layer(at+".norm2", out)
		n.layer(at+".conv2", out, out, 3, 3)
		if in != out {
			n.layer(at+".nin_shortcut", out, in, 1, 1)
		}
	}
	ends := func(side string, in, top, bottom, out int) {
		n.layer(side+".conv_in", top, in, 3, 3)
		residual(side+".mid.block_1", 512, 512)
		residual(side+".mid.block_2", 512, 512)
		n.layer(side+".mid.attn_1.norm", 512)
		for _, name := range []string{"q", "k", "v", "proj_out"} {
			n.layer(side+".mid.attn_1."+name, 512, 512, 1, 1)
		}
		n.layer(side+".norm_out", bottom)
		n.layer(side+".conv_out", out, bottom, 3, 3)
	}
	ends("encoder", 3, 128, 512, 8)
	ends("decoder", 4, 512, 128, 3)
	n.layer("quant_conv", 8, 8, 1, 1)
	n.layer("post_quant_conv", 4, 4, 1, 1)
	width := 128
	for level, next := range widths {
		for k := range 2 {
			residual(fmt.Sprintf("encoder.down.%d.block.%d", level, k), width, next)
			width = next
		}
		if level < 3 {
			n.layer(fmt.Sprintf("encoder.down.%d.downsample.conv", level), width, width, 3, 3)
		}
	}
	for level := 3; level >= 0; level-- {
		for k := range 3 {
			residual(fmt.Sprintf("decoder.up.%d.block.%d", level, k), width, widths[level])
			width = widths[level]
		}
		if level > 0 {
			n.layer(fmt.Sprintf("decoder.up.%d.upsample.conv", level), width, width, 3, 3)
		}
	}
	return state(n)
}

// textEncoders are the parameters of both, the second by OpenCLIP's names, which ComfyUI takes apart.
func textEncoders() (first, second state) {
	one, two := network{}, network{}
	one["text_model.embeddings.token_embedding.weight"], one["text_model.embeddings.position_embedding.weight"] = []int{49408, 768}, []int{77, 768}
	one.layer("text_model.final_layer_norm", 768)
	for i := range 12 {
		at := fmt.Sprintf("text_model.encoder.layers.%d.", i)
		for _, name := range []string{"q_proj", "k_proj", "v_proj", "out_proj"} {
			one.layer(at+"self_attn."+name, 768, 768)
		}
		one.layer(at+"layer_norm1", 768)
		one.layer(at+"layer_norm2", 768)
		one.layer(at+"mlp.fc1", 3072, 768)
		one.layer(at+"mlp.fc2", 768, 3072)
	}
	two["token_embedding.weight"], two["positional_embedding"], two["text_projection"] = []int{49408, 1280}, []int{77, 1280}, []int{1280, 1280}
	two.layer("ln_final", 1280)
	for i := range 32 {
		at := fmt.Sprintf("transformer.resblocks.%d.", i)
		two[at+"attn.in_proj_weight"], two[at+"attn.in_proj_bias"] = []int{3840, 1280}, []int{3840}
		two.layer(at+"attn.out_proj", 1280, 1280)
		two.layer(at+"ln_1", 1280)
		two.layer(at+"ln_2", 1280)
		two.layer(at+"mlp.c_fc", 5120, 1280)
		two.layer(at+"mlp.c_proj", 1280, 5120)
	}
	return state(one), state(two)
}

// diffusersNames are the diffusers names that ComfyUI knows for a UNet, and LDM's.
func (d detected) diffusersNames() map[string]string {
	out := map[string]string{}
	both := func(diffusers, ldm string) {
		out[diffusers+".weight"], out[diffusers+".bias"] = ldm+".weight", ldm+".bias"
	}
	residual := func(diffusers, ldm string) {
		for _, p := range [][2]string{{"norm1", "in_layers.0"}, {"conv1", "in_layers.2"}, {"time_emb_proj", "emb_layers.1"},
			{"norm2", "out_layers.0"}, {"conv2", "out_layers.3"}, {"conv_shortcut", "skip_connection"}} {
			both(diffusers+"."+p[0], ldm+"."+p[1])
		}
	}
	transformer := func(diffusers, ldm string, depth int) {
		for _, name := range []string{"norm", "proj_in", "proj_out"} {
			both(diffusers+"."+name, ldm+"."+name)
		}
		for i := range depth {
			for _, name := range []string{"norm1", "norm2", "norm3", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q",
				"attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"} {
				at := fmt.Sprintf(".transformer_blocks.%d.%s", i, name)
				both(diffusers+at, ldm+at)
			}
		}
	}
	for _, p := range [][2]string{{"conv_in", "input_blocks.0.0"}, {"conv_norm_out", "out.0"}, {"conv_out", "out.2"}, {"time_embedding.linear_1", "time_embed.0"},
		{"time_embedding.linear_2", "time_embed.2"}, {"add_embedding.linear_1", "label_emb.0.0"}, {"add_embedding.linear_2", "label_emb.0.2"}} {
		both(p[0], p[1])
	}
	residual("mid_block.resnets.0", "middle_block.0")
	transformer("mid_block.attentions.0", "middle_block.1", d.middle)
	residual("mid_block.resnets.1", "middle_block.2")
	depth, depthOut := slices.Clone(d.depth), slices.Clone(d.depthOut)
	down, up := 1, 0
	for level, blocks := range d.blocks {
		for k := range blocks {
			residual(fmt.Sprintf("down_blocks.%d.resnets.%d", level, k), fmt.Sprintf("input_blocks.%d.0", down))
			if depth[0] > 0 {
				transformer(fmt.Sprintf("down_blocks.%d.attentions.%d", level, k), fmt.Sprintf("input_blocks.%d.1", down), depth[0])
			}
			depth, down = depth[1:], down+1
		}
		both(fmt.Sprintf("down_blocks.%d.downsamplers.0.conv", level), fmt.Sprintf("input_blocks.%d.0.op", down))
		down++
		for k := range d.blocks[len(d.blocks)-1-level] + 1 {
			residual(fmt.Sprintf("up_blocks.%d.resnets.%d", level, k), fmt.Sprintf("output_blocks.%d.0", up))
			place := 1
			if deep := depthOut[len(depthOut)-1]; deep > 0 {
				transformer(fmt.Sprintf("up_blocks.%d.attentions.%d", level, k), fmt.Sprintf("output_blocks.%d.1", up), deep)
				place = 2
			}
			depthOut = depthOut[:len(depthOut)-1]
			if k == d.blocks[len(d.blocks)-1-level] {
				both(fmt.Sprintf("up_blocks.%d.upsamplers.0.conv", level), fmt.Sprintf("output_blocks.%d.%d.conv", up, place))
			}
			up++
		}
	}
	return out
}
