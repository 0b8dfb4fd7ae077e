package ldm

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fewstep/model/weights"
)

// tensors is a source of tensors in memory.
type tensors map[string]weights.Tensor

func (s tensors) Names() []string { return slices.Sorted(maps.Keys(s)) }

func (s tensors) Tensor(name string) (weights.Tensor, error) {
	t, ok := s[name]
	if !ok {
		return t, fmt.Errorf("no tensor %s", name)
	}
	return t, nil
}

func (s tensors) Close() error { return nil }

// line is one of the reference's list: an LDM tensor and the diffusers tensors it is made of.
type line struct {
	name       string
	shape      []int
	component  string
	origins    []string
	transposed bool
}

func reference(t testing.TB) []line {
	t.Helper()
	f, err := os.Open("testdata/names.txt.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var lines []line
	for s := bufio.NewScanner(z); s.Scan(); {
		fields := strings.Split(s.Text(), "\t")
		l := line{name: fields[0]}
		for _, d := range strings.Split(fields[1], "x") {
			n, err := strconv.Atoi(d)
			if err != nil {
				t.Fatal(err)
			}
			l.shape = append(l.shape, n)
		}
		fields[2], l.transposed = strings.CutSuffix(fields[2], " transposed")
		for _, o := range strings.Split(fields[2], ",") {
			component, name, _ := strings.Cut(o, "/")
			l.component, l.origins = component, append(l.origins, name)
		}
		lines = append(lines, l)
	}
	if len(lines) != 2513 {
		t.Fatalf("the list has %d lines", len(lines))
	}
	return lines
}

// SDXL's whole file, read: every tensor of diffusers' state dicts comes from where diffusers' own converter takes it.
func TestReadsTheReferencesNames(t *testing.T) {
	file := tensors{
		"conditioner.embedders.0.transformer.text_model.embeddings.position_ids": {Name: "conditioner.embedders.0.transformer.text_model.embeddings.position_ids", DType: weights.I64, Shape: []int{1, 77}},
		"conditioner.embedders.1.model.logit_scale":                              {Name: "conditioner.embedders.1.model.logit_scale", DType: weights.F16},
		"denoiser.sigmas": {Name: "denoiser.sigmas", DType: weights.F32, Shape: []int{1000}},
	}
	lines := reference(t)
	for _, l := range lines {
		file[l.name] = weights.Tensor{Name: l.name, DType: weights.F16, Shape: l.shape}
	}
	c, err := New("sdxl", file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(c.LeftOut()); got != 3 {
		t.Errorf("left out %v", c.LeftOut())
	}
	total := 0
	for _, l := range lines {
		src, err := c.Component(l.component)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range l.origins {
			total++
			got, err := src.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(l.shape)
			switch {
			case len(l.origins) == 3:
				want[0] /= 3
			case l.transposed:
				slices.Reverse(want)
			case strings.Contains(l.name, ".attn_1.") && len(want) == 4:
				want = want[:2]
			}
			from := c.components[l.component][name]
			if from.name != l.name || len(l.origins) == 3 && from.part != i || (from.how == transpose) != l.transposed || !slices.Equal(got.Shape, want) || got.Name != name {
				t.Errorf("%s/%s: %s%v from %+v, want shape %v of %s", l.component, name, got.Name, got.Shape, from, want, l.name)
			}
		}
	}
	have := 0
	for _, component := range Components {
		src, err := c.Component(component)
		if err != nil {
			t.Fatal(err)
		}
		have += len(src.Names())
	}
	if have != total || have != 2641 {
		t.Errorf("%d tensors, want %d", have, total)
	}
}

// And written: the names, shapes and origins of diffusers' conversion script.
func TestWritesTheReferencesNames(t *testing.T) {
	lines := reference(t)
	components := map[string]weights.Source{}
	for _, c := range Components {
		components[c] = tensors{}
	}
	want := map[string][]int{}
	for _, l := range lines {
		want[l.name] = l.shape
		for _, name := range l.origins {
			shape := slices.Clone(l.shape)
			switch {
			case len(l.origins) == 3:
				shape[0] /= 3
			case strings.Contains(l.name, ".attn_1.") && len(shape) == 4:
				shape = shape[:2]
			}
			components[l.component].(tensors)[name] = weights.Tensor{Name: name, DType: weights.F16, Shape: shape}
		}
	}
	all, err := Tensors(FormXL, components)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]int{}
	for _, x := range all {
		got[x.Name] = x.Shape
	}
	if len(all) != len(got) || !reflect.DeepEqual(got, want) {
		for name, shape := range want {
			if !slices.Equal(got[name], shape) {
				t.Errorf("%s: %v, want %v", name, got[name], shape)
			}
		}
		t.Errorf("%d tensors, want %d", len(all), len(want))
	}
}

// TestUNetModules has pairs of SDXL's UNet.
func TestUNetModules(t *testing.T) {
	want := map[string]string{
		"conv_in": "input_blocks.0.0", "conv_out": "out.2",
		"time_embedding.linear_2":                                    "time_embed.2",
		"add_embedding.linear_1":                                     "label_emb.0.0",
		"down_blocks.0.resnets.1.conv1":                              "input_blocks.2.0.in_layers.2",
		"down_blocks.0.downsamplers.0.conv":                          "input_blocks.3.0.op",
		"down_blocks.1.attentions.0.proj_in":                         "input_blocks.4.1.proj_in",
		"down_blocks.1.resnets.0.conv_shortcut":                      "input_blocks.4.0.skip_connection",
		"down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k": "input_blocks.8.1.transformer_blocks.9.attn2.to_k",
		"mid_block.resnets.0.conv2":                                  "middle_block.0.out_layers.3",
		"mid_block.attentions.0.proj_out":                            "middle_block.1.proj_out",
		"mid_block.resnets.1.time_emb_proj":                          "middle_block.2.emb_layers.1",
		"up_blocks.0.resnets.0.conv1":                                "output_blocks.0.0.in_layers.2",
		"up_blocks.0.attentions.2.proj_in":                           "output_blocks.2.1.proj_in",
		"up_blocks.0.upsamplers.0.conv":                              "output_blocks.2.2.conv",
		"up_blocks.1.attentions.0.proj_in":                           "output_blocks.3.1.proj_in",
		"up_blocks.1.upsamplers.0.conv":                              "output_blocks.5.2.conv",
		"up_blocks.2.resnets.2.conv_shortcut":                        "output_blocks.8.0.skip_connection",
	}
	known := []string{"other", "mid_block.x.y.z", "up_blocks.a.resnets.b.conv1", "up_blocks.9.resnets.0.conv1"}
	for _, l := range reference(t) {
		for _, name := range l.origins {
			if path, ok := strings.CutSuffix(name, ".weight"); ok && l.component == UNet {
				known = append(known, path)
			}
		}
	}
	got := UNetModules(known)
	for path, ldm := range want {
		if got[path] != ldm {
			t.Errorf("%s is %q, want %q", path, got[path], ldm)
		}
	}
	for _, path := range known[:4] {
		if got[path] != "" {
			t.Errorf("%s is %q", path, got[path])
		}
	}
	if len(got) < 800 {
		t.Errorf("%d paths", len(got))
	}
}

// Levels with different numbers of resnets are numbered through, as LDM's code builds them from a list.
func TestUnevenLevels(t *testing.T) {
	var names []string
	for i, n := range []int{1, 3, 2} {
		for j := range n {
			names = append(names, fmt.Sprintf("down_blocks.%d.resnets.%d.conv1.weight", i, j))
		}
		if i < 2 {
			names = append(names, fmt.Sprintf("down_blocks.%d.downsamplers.0.conv.weight", i))
		}
		for j := range []int{2, 3, 1}[i] + 1 { // coarsest first
			names = append(names, fmt.Sprintf("up_blocks.%d.resnets.%d.conv1.weight", i, j))
		}
		if i < 2 {
			names = append(names, fmt.Sprintf("up_blocks.%d.upsamplers.0.conv.weight", i))
		}
	}
	names = append(names, "up_blocks.1.attentions.3.norm.weight", "down_blocks.1.attentions.2.norm.weight")
	u := namesOfDiffusers(names)
	var ldm []string
	for _, name := range names {
		to, ok := u.toLDM(name)
		if !ok {
			t.Fatalf("%s has no name", name)
		}
		ldm = append(ldm, to)
	}
	for name, want := range map[string]string{
		"down_blocks.1.resnets.0.conv1.weight": "input_blocks.3.0.in_layers.2.weight", "down_blocks.2.resnets.1.conv1.weight": "input_blocks.8.0.in_layers.2.weight",
		"up_blocks.1.resnets.0.conv1.weight": "output_blocks.3.0.in_layers.2.weight", "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.6.2.conv.weight",
		"up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight", "up_blocks.2.resnets.1.conv1.weight": "output_blocks.8.0.in_layers.2.weight",
	} {
		if got, _ := u.toLDM(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	back := namesOfLDM(ldm)
	if !slices.Equal(back.layers, []int{1, 3, 2}) {
		t.Errorf("layers %v", back.layers)
	}
	for i, name := range ldm {
		if got, ok := back.toDiffusers(name); !ok || got != names[i] {
			t.Errorf("%s is %s, want %s", name, got, names[i])
		}
	}
}
