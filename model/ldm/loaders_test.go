package ldm_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fewstep/model/clip"
	"fewstep/model/ldm"
	"fewstep/model/lora"
	"fewstep/model/unet"
	"fewstep/model/vae"
	"fewstep/model/weights"
)

// These tests hold what fewstep writes of SDXL against what other programs make of a file's names and shapes. The rules
// are those of ComfyUI's model_detection.py, sd.py, utils.py and lora.py and of A1111's sd_models_config.py and
// networks.py, put into words of our own; the networks they then build are counted out here from what was detected.

// state is a file's names and shapes.
type state map[string][]int

// sdxl are the shapes of SDXL's components under diffusers' names.
func sdxl(t *testing.T) map[string]weights.Source {
	t.Helper()
	out := map[string]weights.Source{}
	for _, component := range ldm.Components {
		path := filepath.Join("..", "golden", "testdata", "sdxl", component, "config.json")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var shapes map[string][]int
		switch component {
		case ldm.UNet:
			c, err := unet.ParseConfig(raw, path)
			if err != nil {
				t.Fatal(err)
			}
			shapes = c.Tensors()
		case ldm.VAE:
			c, err := vae.ParseConfig(raw, path)
			if err != nil {
				t.Fatal(err)
			}
			shapes = c.Tensors()
		default:
			c, err := clip.ParseTextConfig(raw, path)
			if err != nil {
				t.Fatal(err)
			}
			shapes = c.Tensors()
		}
		var tensors []weights.Tensor
		for name, shape := range shapes {
			tensors = append(tensors, weights.Tensor{Name: name, DType: weights.F16, Shape: shape})
		}
		out[component] = weights.Collect(tensors)
	}
	return out
}

// loads fails where a network would find something missing, of another shape or left over: what ComfyUI warns about.
func loads(t *testing.T, what string, file, network state) {
	t.Helper()
	wrong := 0
	for _, name := range slices.Sorted(maps.Keys(network)) {
		if !slices.Equal(file[name], network[name]) && wrong < 5 {
			t.Errorf("%s: %s has the shape %v, the program's is %v", what, name, file[name], network[name])
			wrong++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(file)) {
		if network[name] == nil && wrong < 5 {
			t.Errorf("%s: the program leaves %s over", what, name)
			wrong++
		}
	}
}

// A single file of SDXL is recognised, and each of its tensors is one that the networks have, of their shape; none is
// missing and none left over.
func TestComfyUILoadsSingleFile(t *testing.T) {
	tensors, err := ldm.Tensors(ldm.FormXL, sdxl(t))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]state{}
	prefixes := []string{"model.diffusion_model.", "first_stage_model.", "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."}
next:
	for _, x := range tensors {
		for _, prefix := range prefixes {
			if name, ok := strings.CutPrefix(x.Name, prefix); ok {
				if parts[prefix] == nil {
					parts[prefix] = state{}
				}
				parts[prefix][name] = x.Shape
				continue next
			}
		}
		t.Errorf("%s is left over", x.Name)
	}
	found := detect(parts[prefixes[0]])
	if fmt.Sprint(found) != fmt.Sprint(sdxlDetected) {
		t.Fatalf("ComfyUI takes the UNet for\n%+v, SDXL is\n%+v", found, sdxlDetected)
	}
	loads(t, "UNet", parts[prefixes[0]], found.parameters())
	loads(t, "VAE", parts[prefixes[1]], autoencoder())
	one, two := textEncoders()
	loads(t, "first text encoder", parts[prefixes[2]], one)
	loads(t, "second text encoder", parts[prefixes[3]], two)
	// A1111 takes a file with this tensor, and four channels into the UNet, for SDXL.
	if parts[prefixes[3]]["ln_final.weight"] == nil || parts[prefixes[0]]["input_blocks.0.0.weight"][1] != 4 {
		t.Error("A1111 would not take the file for SDXL")
	}
}

// A UNet file with diffusers' names is recognised, each of its tensors has a place, and the network lacks none.
func TestComfyUILoadsUNetFile(t *testing.T) {
	unet := sdxl(t)[ldm.UNet]
	file := state{}
	for _, name := range unet.Names() {
		x, err := unet.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		file[name] = x.Shape
	}
	var depth []int
	for level := range file.count("down_blocks.") {
		attentions := file.count(fmt.Sprintf("down_blocks.%d.attentions.", level))
		for k := range attentions {
			depth = append(depth, file.count(fmt.Sprintf("down_blocks.%d.attentions.%d.transformer_blocks.", level, k)))
		}
		if attentions == 0 {
			depth = append(depth, make([]int, file.count(fmt.Sprintf("down_blocks.%d.resnets.", level)))...)
		}
	}
	if got := fmt.Sprint(depth, file["conv_in.weight"][:2], file["add_embedding.linear_1.weight"][1], file["down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1]); got != "[0 0 2 2 10 10] [320 4] 2816 2048" {
		t.Fatalf("ComfyUI sees depths, channels, pooled and context widths %s", got)
	}
	names, renamed := sdxlDetected.diffusersNames(), state{}
	for name, shape := range file {
		if names[name] == "" {
			t.Errorf("ComfyUI leaves %s over", name)
		}
		renamed[names[name]] = shape
	}
	loads(t, "UNet", renamed, sdxlDetected.parameters())
}

// adapters are the tensors of a LoRA of rank 1 of the layers of SDXL that fewstep adapts, as Write saves them: all but
// the embeddings and the first and the last convolution.
func adapters(t *testing.T, blocks lora.Blocks) []weights.Tensor {
	t.Helper()
	base := sdxl(t)[ldm.UNet]
	paths, err := lora.UNetLayers(base)
	if err != nil {
		t.Fatal(err)
	}
	var modules []lora.Module
	for _, path := range paths {
		if strings.HasPrefix(path, "conv_") || strings.Contains(path, "_embedding.") {
			continue
		}
		x, err := base.Tensor(path + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		m := lora.Module{Path: path, Rank: 1, Alpha: 1}
		m.Down.Shape, m.Up.Shape = slices.Clone(x.Shape), []int{x.Shape[0], 1}
		if m.Down.Shape[0] = 1; len(x.Shape) == 4 {
			m.Up.Shape = append(m.Up.Shape, 1, 1)
		}
		m.Down.Data, m.Up.Data = make([]float32, x.Elements()/x.Shape[0]), make([]float32, x.Shape[0])
		modules = append(modules, m)
	}
	tensors, err := lora.Tensors(modules, blocks, paths, weights.F16)
	if err != nil {
		t.Fatal(err)
	}
	return tensors
}

// Every key of a LoRA is one that ComfyUI looks for, and the product of each pair has as many values as the layer's
// weight, into whose shape ComfyUI brings it.
func TestComfyUILoadsLoRA(t *testing.T) {
	parameters, keys := sdxlDetected.parameters(), map[string]string{}
	for diffusers, name := range sdxlDetected.diffusersNames() {
		for _, path := range []string{diffusers, name} { // it looks for either kind of blocks
			if path, ok := strings.CutSuffix(path, ".weight"); ok {
				keys["lora_unet_"+strings.ReplaceAll(path, ".", "_")] = name
			}
		}
	}
	for _, blocks := range []lora.Blocks{lora.SGM, lora.Diffusers} {
		file := map[string]weights.Tensor{}
		for _, x := range adapters(t, blocks) {
			file[x.Name] = x
		}
		loaded := 0
		for key, layer := range keys {
			up, ok := file[key+".lora_up.weight"]
			if !ok {
				continue
			}
			down, alpha := file[key+".lora_down.weight"], file[key+".alpha"]
			if alpha.Elements() != 1 || up.Elements()/up.Shape[1]*(down.Elements()/down.Shape[0]) != product(parameters[layer]) {
				t.Errorf("%s: up %v, down %v, alpha %v for a weight of %v", key, up.Shape, down.Shape, alpha.Shape, parameters[layer])
			}
			loaded += 3
		}
		if loaded != len(file) || loaded != 2364 {
			t.Errorf("%s: ComfyUI loads %d of %d keys", blocks, loaded, len(file))
		}
	}
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// A1111 turns diffusers' blocks into LDM's by patterns made for Stable Diffusion 1, by which it finds all but one of
// SDXL's 788 layers: that it leaves out of every LoRA with these names, of the published ones too. Under LDM's own names it
// finds all, which is why fewstep writes them.
func TestA1111LoadsLoRA(t *testing.T) {
	resnet := map[string]string{"conv1": "in_layers_2", "conv2": "out_layers_3", "norm1": "in_layers_0", "norm2": "out_layers_0",
		"time_emb_proj": "emb_layers_1", "conv_shortcut": "skip_connection"}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	inner := func(kind, rest string) string {
		if to, ok := resnet[rest]; ok && kind == "resnets" {
			return to
		}
		return rest
	}
	slot := map[string]int{"resnets": 0, "attentions": 1}
	patterns := []struct {
		re *regexp.Regexp
		to func(m []string) string
	}{
		{regexp.MustCompile(`^down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)$`), func(m []string) string {
			return fmt.Sprintf("input_blocks_%d_%d_%s", 1+3*number(m[1])+number(m[3]), slot[m[2]], inner(m[2], m[4]))
		}},
		{regexp.MustCompile(`^mid_block_(attentions|resnets)_(\d+)_(.+)$`), func(m []string) string {
			place := 1
			if m[1] == "resnets" {
				place = 2 * number(m[2])
			}
			return fmt.Sprintf("middle_block_%d_%s", place, inner(m[1], m[3]))
		}},
		{regexp.MustCompile(`^up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)$`), func(m []string) string {
			return fmt.Sprintf("output_blocks_%d_%d_%s", 3*number(m[1])+number(m[3]), slot[m[2]], inner(m[2], m[4]))
		}},
		{regexp.MustCompile(`^down_blocks_(\d+)_downsamplers_0_conv$`), func(m []string) string { return fmt.Sprintf("input_blocks_%d_0_op", 3+3*number(m[1])) }},
		{regexp.MustCompile(`^up_blocks_(\d+)_upsamplers_0_conv$`), func(m []string) string {
			return fmt.Sprintf("output_blocks_%d_%d_conv", 2+3*number(m[1]), min(number(m[1]), 1)+1)
		}},
	}
	layers := map[string]bool{}
	for name := range sdxlDetected.parameters() {
		layers[strings.ReplaceAll(strings.TrimSuffix(name, ".weight"), ".", "_")] = true
	}
	for blocks, want := range map[lora.Blocks][]string{lora.Diffusers: {"up_blocks_0_upsamplers_0_conv"}, lora.SGM: nil} {
		var missed []string
		for _, x := range adapters(t, blocks) {
			name, ok := strings.CutSuffix(x.Name, ".alpha")
			if !ok {
				continue
			}
			name = strings.TrimPrefix(name, "lora_unet_")
			to := name
			for _, p := range patterns {
				if m := p.re.FindStringSubmatch(name); m != nil {
					to = p.to(m)
				}
			}
			if !layers[to] {
				missed = append(missed, name)
			}
		}
		slices.Sort(missed)
		if !slices.Equal(missed, want) {
			t.Errorf("%s: A1111 does not find %v, want %v", blocks, missed, want)
		}
	}
}
