package golden

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/internal/drawn"
	"fewstep/model/clip"
	"fewstep/model/nn"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
)

// miniTokenizer has the vocabulary of the golden open_clip models.
var miniTokenizer = filepath.Join("..", "clip", "testdata", "tokenizer_2")

// openCLIPWeight is generate_features.py's clip_weight.
func openCLIPWeight(name string, dims []int) []float32 {
	size, fan := 1, 1
	for i, d := range dims {
		size *= d
		if i > 0 {
			fan *= d
		}
	}
	out := make([]float32, size)
	for i, v := range drawn.Uniform(name, size) {
		switch {
		case strings.HasSuffix(name, "bias") || strings.Contains(name, "embedding"):
			v *= 0.3
		case strings.Contains("."+name, ".ln_"):
			v = 1 + 0.3*v
		case name == "logit_scale":
			v += 3
		case len(dims) > 1:
			v *= math.Sqrt(3 / float64(fan))
		}
		out[i] = float32(v)
	}
	return out
}

// openCLIPFolder writes the weights of a golden open_clip model beside its config, as files that users have.
func openCLIPFolder(t *testing.T, name string) string {
	t.Helper()
	dir, source := t.TempDir(), filepath.Join("testdata", name)
	config, err := os.ReadFile(filepath.Join(source, "open_clip_config.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "open_clip_config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(source, "tensors.json"))
	if err != nil {
		t.Fatal(err)
	}
	shapes := map[string][]int{}
	if err := json.Unmarshal(raw, &shapes); err != nil {
		t.Fatal(err)
	}
	var tensors []weights.Tensor
	for name, dims := range shapes {
		tensors = append(tensors, weights.FromFloat32(name, dims, openCLIPWeight(name, dims), weights.F32))
	}
	if err := weights.Write(filepath.Join(dir, "open_clip_model.safetensors"), tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestOpenCLIP compares both towers with open_clip's, read from its own layout.
func TestOpenCLIP(t *testing.T) {
	rt := backend(t)
	for _, name := range []string{"open_clip", "open_clip_quick"} {
		t.Run(name, func(t *testing.T) {
			want := golden(t, name)
			m, err := clip.OpenModel(openCLIPFolder(t, name), miniTokenizer)
			if err != nil {
				t.Fatal(err)
			}
			block := bothTowers("net", m.Text, m.Vision)
			specs, err := nn.Trace(rt.Backend, block, floats(1, m.Vision.ImageSize, m.Vision.ImageSize, 3), ints(1, m.Text.MaxPositions), ints(1))
			if err != nil {
				t.Fatal(err)
			}
			tensors, err := m.Read(specs)
			if err != nil {
				t.Fatal(err)
			}
			e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
			params, err := e.Load(specs, tensors, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer params.FreeAll()

			image := array{dims: []int{2, 3, 18, 18}}
			for _, v := range drawn.Uniform("open_clip.image", 2*3*18*18) {
				image.values = append(image.values, float32(v)*1.7)
			}
			image = channelsLast(image)
			ids := make([]int32, 2*16)
			copy(ids, []int32{2046, 7, 300, 41, 2047})
			for i := range 14 {
				ids[17+i] = 900 + 3*int32(i)
			}
			ids[16], ids[31] = 2046, 2047
			var in []*engine.Array
			for _, v := range []struct {
				flat any
				dims []int
			}{{image.values, image.dims}, {ids, []int{2, 16}}, {[]int32{m.Text.EOSPosition(ids[:16]), m.Text.EOSPosition(ids[16:])}, []int{2}}} {
				a, err := e.Upload(v.flat, v.dims...)
				if err != nil {
					t.Fatal(err)
				}
				in = append(in, a)
			}
			got, err := e.Call(engine.Function{Key: name, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
				return append(r.Run(block, in...)[:2], r.Run(m.Text.Text("net"), in[1:]...)[clip.TextProjected])
			}}, engine.Bind{"net": params}, in...)
			if err != nil {
				t.Fatal(err)
			}
			for i, output := range []string{"logits", "image", "text"} {
				values, err := e.Floats(got[i])
				if err != nil {
					t.Fatal(err)
				}
				if err := close(values, got[i].Shape().Dimensions, want["out."+output], forwardTolerance); err != nil {
					t.Errorf("%s: %v", output, err)
				}
			}
		})
	}
}

// TestOpenCLIPTokens: the same ids as open_clip's tokenizer, which repairs captions first.
func TestOpenCLIPTokens(t *testing.T) {
	m, err := clip.OpenModel(filepath.Join("testdata", "open_clip"), miniTokenizer)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "open_clip", "tokens.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Texts         []string
		IDs, Standard [][]int32
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Texts) < 10 || len(want.IDs) != len(want.Texts) || len(want.Standard) != len(want.Texts) {
		t.Fatalf("%d texts, %d and %d rows of ids", len(want.Texts), len(want.IDs), len(want.Standard))
	}
	full, err := clip.OpenModel(filepath.Join("testdata", "open_clip", "ViT-g-14"), "") // has OpenAI's vocabulary
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range want.Texts {
		if ids, _ := m.Tokenizer.Encode(text); !slices.Equal(ids, want.IDs[i]) {
			t.Errorf("%q\n got %v\nwant %v", text, ids, want.IDs[i])
		}
		ids, end := full.Tokenizer.Encode(text)
		if !slices.Equal(ids[:end+1], want.Standard[i]) || len(ids) != 77 {
			t.Errorf("%q in OpenAI's vocabulary\n got %v\nwant %v", text, ids[:end+1], want.Standard[i])
		}
	}
}

// TestOpenCLIPFullSize: the parameters of the models that evaluations name are those of their checkpoints.
func TestOpenCLIPFullSize(t *testing.T) {
	for _, name := range []string{"ViT-H-14", "ViT-g-14"} {
		dir := filepath.Join("testdata", "open_clip", name)
		m, err := clip.OpenModel(dir, miniTokenizer)
		if err != nil {
			t.Fatal(err)
		}
		specs, err := nn.Trace(backend(t).Backend, bothTowers("", m.Text, m.Vision), floats(1, 224, 224, 3), ints(1, 77), ints(1))
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Parameters int
			SHA256     string
		}
		raw, err := os.ReadFile(filepath.Join(dir, "digest.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		if n := count(specs, func(string) bool { return true }); n != want.Parameters {
			t.Errorf("%s: %d parameters, want %d", name, n, want.Parameters)
		}
		lines := map[string]bool{}
		for _, s := range specs {
			from, dims := clip.OpenCLIPName(s)
			lines[fmt.Sprintf("%s [%s]\n", from, strings.Trim(strings.ReplaceAll(fmt.Sprint(dims), " ", ", "), "[]"))] = true
		}
		var sorted []string
		for line := range lines {
			sorted = append(sorted, line)
		}
		slices.Sort(sorted)
		sum := sha256.Sum256([]byte(strings.Join(sorted, "")))
		if got := hex.EncodeToString(sum[:]); got != want.SHA256 {
			t.Errorf("%s: names and shapes differ from open_clip's: hash %s, want %s", name, got, want.SHA256)
		}
	}
}
