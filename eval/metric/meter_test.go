package metric

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"fewstep/data/images"
	"fewstep/engine"
	"fewstep/eval/stats"
	"fewstep/internal/drawn"
	"fewstep/model/clip"
	"fewstep/model/inception"
	"fewstep/model/nn"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"gonum.org/v1/gonum/mat"

	"fewstep/internal/xla/xlatest"
)

var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "fewstep-metric-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// random is the file of a random Inception network; its features have scale.
var random = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "random.safetensors")
	rt, err := opened()
	if err != nil {
		return "", err
	}
	specs, err := inception.StateDict(rt.Backend)
	if err != nil {
		return "", err
	}
	var tensors []weights.Tensor
	for _, s := range specs {
		tensors = append(tensors, weights.FromFloat32(s.Name, s.Dims, drawn.Inception(s.Name, s.Dims), weights.F32))
	}
	return path, weights.Write(path, tensors, nil)
})

// shared compiles each program once for all tests.
var shared = func() func(compute.Backend) *engine.Engine {
	var once sync.Once
	var e *engine.Engine
	return func(b compute.Backend) *engine.Engine {
		once.Do(func() { e = engine.New(b, dtypes.Float32, nn.Network) })
		return e
	}
}()

var miniDir = filepath.Join("..", "..", "assets", "mini")

// meter opens a standard with the random network and, if scored, the mini pipeline's CLIP.
func meter(t *testing.T, standard string, scored bool) *Meter {
	t.Helper()
	rt, err := opened()
	if err != nil {
		xlatest.Missing(t, err)
	}
	s, err := FindStandard(standard)
	if err != nil {
		t.Fatal(err)
	}
	path, err := random()
	if err != nil {
		t.Fatal(err)
	}
	from := Sources{Inception: path}
	if scored {
		from.CLIP, from.Tokenizer = filepath.Join(miniDir, "clip"), filepath.Join(miniDir, "tokenizer_2")
	}
	m, err := OpenMeter(shared(rt.Backend), s, from, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Free)
	return m
}

// drawnImage rebuilds an image of testdata/golden.py.
func drawnImage(width, height int) images.RGB {
	m := images.New(width, height)
	for i := range m.Pix {
		z := uint64(i+1) * 0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		c, x, y := i%3, i/3%width, i/3/width
		v := int(z>>57) + (3*x*(c+1)+5*y)%128
		if (x/9+y/7)%5 == 0 {
			v = 0
		} else if (x/11+y/5)%5 == 0 {
			v = 255
		}
		m.Pix[i] = uint8(v)
	}
	return m
}

var goldenSizes = map[string][2]int{"small": {150, 211}, "large": {517, 333}}

// near compares every stride-th value, relative to the largest.
func near(t *testing.T, name string, got, want []float32, stride int, tolerance float64) {
	t.Helper()
	var difference, largest float64
	n := 0
	for i := 0; i < len(got); i, n = i+stride, n+1 {
		if n >= len(want) {
			t.Fatalf("%s: more values than the %d that are wanted", name, len(want))
		}
		d := math.Abs(float64(got[i]) - float64(want[n]))
		if math.IsNaN(d) {
			t.Fatalf("%s: value %d is %v", name, i, got[i])
		}
		difference, largest = max(difference, d), max(largest, math.Abs(float64(want[n])))
	}
	if n != len(want) || largest == 0 || difference > tolerance*largest {
		t.Errorf("%s: %d values, want %d; differ by %g of %g", name, n, len(want), difference, largest)
	}
}

// TestStandardsAgreeWithPython compares the features of images of odd sizes with what clean-fid, DMD2's code,
// pytorch-fid and torch-fidelity make of them.
func TestStandardsAgreeWithPython(t *testing.T) {
	f, err := weights.Open(filepath.Join("testdata", "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, standard := range []string{"lightning", "dmd2", "pytorch-fid", "tf1", "mini"} {
		m := meter(t, standard, false)
		for size, wh := range goldenSizes {
			looks, err := m.Look([]images.RGB{drawnImage(wh[0], wh[1])})
			if err != nil {
				t.Fatal(err)
			}
			if looks[0].Cropped != (m.Standard.Patch != nil && (size == "large" || standard == "mini")) {
				t.Errorf("%s, %s: cropped %t", standard, size, looks[0].Cropped)
			}
			checked := 0
			for kind, got := range map[string][]float32{"whole": looks[0].Whole, "patch": looks[0].Patch} {
				name := fmt.Sprintf("%s.%s.%s", size, standard, kind)
				if !slices.Contains(f.Names(), name) {
					continue // the same as another's
				}
				near(t, name, got, weightstest.Floats(t, f, name), 8, 1e-4)
				checked++
			}
			if checked == 0 {
				t.Errorf("nothing to compare for %s, %s", standard, size)
			}
		}
	}
}

// TestPreprocess compares what CLIP's image encoder is given, from images of odd sizes, with open_clip and transformers.
func TestPreprocess(t *testing.T) {
	f, err := weights.Open(filepath.Join("testdata", "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct{ golden, standard, file, config string }{
		{"lightning", "lightning", "open_clip_config.json", `{"model_cfg": {}}`},
		{"dmd2", "dmd2", "open_clip_config.json", `{"model_cfg": {}}`},
		{"transformers", "lightning", "config.json", `{"model_type": "clip"}`},
	} {
		dir := t.TempDir() // without tokenizer: OpenAI's vocabulary
		if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.config), 0o600); err != nil {
			t.Fatal(err)
		}
		model, err := clip.OpenModel(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := FindStandard(c.standard)
		if err != nil {
			t.Fatal(err)
		}
		for size, wh := range goldenSizes {
			got, err := s.Score.prepare(model.Preprocess, drawnImage(wh[0], wh[1]))
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%s.%s.clip", size, c.golden)
			near(t, name, got, weightstest.Floats(t, f, name), 97, 1e-6)
		}
	}
}

// invented are looks at n images, without images: features about a mean.
func invented(n int, seed string, shift, spread float64) []Look {
	out := make([]Look, n)
	for i := range out {
		u := drawn.Uniform(fmt.Sprint(seed, i), 2*featureWidth)
		for k := range featureWidth {
			out[i].Whole = append(out[i].Whole, float32(1+shift+spread*u[k]))
			out[i].Patch = append(out[i].Patch, float32(2-shift+spread*u[featureWidth+k]))
		}
		out[i].Cropped = true
	}
	return out
}

// TestMeter measures two sets by the mini convention: everything that is reported, and what it is called.
func TestMeter(t *testing.T) {
	m := meter(t, "mini", true)
	real, same, pale := invented(9, "real", 0, 1), invented(8, "same", 0, 1), invented(8, "pale", 1.5, 0.5)
	looks, err := m.Look([]images.RGB{drawnImage(40, 30)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range same {
		same[i].Embedding, pale[i].Embedding = looks[0].Embedding, looks[0].Embedding
	}
	var prompts []string
	for i := range 8 {
		prompts = append(prompts, []string{"a lion on stripes", "an apple", "a cat"}[i%3])
	}
	captions, err := m.Captions(prompts)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Measures(); len(got) != 1 || !got[0].Higher || !strings.HasPrefix(got[0].Name, "CLIP score(") {
		t.Errorf("without a reference: %+v", got)
	}
	if err := m.Refer(real); err != nil {
		t.Fatal(err)
	}
	opt := stats.Resampling{Resamples: 40, Seed: 1}
	var started []string
	m.Started = func(metric string) { started = append(started, metric) }
	value := func(made []Look) map[string]Result {
		started = nil
		results, err := m.Results(made, prompts, captions, opt)
		if err != nil {
			t.Fatal(err)
		}
		measures, out := m.Measures(), map[string]Result{}
		if len(results) != len(measures) {
			t.Fatalf("%d results of %d measures", len(results), len(measures))
		}
		if !slices.Equal(started, names(results)) {
			t.Errorf("announced %q, computed %q", started, names(results))
		}
		for i, r := range results {
			if r.Name != measures[i].Name || r.Samples != 8 || !(r.Low <= r.Value && r.Value <= r.High) || measures[i].Note == "" {
				t.Errorf("result %+v of %+v", r, measures[i])
			}
			key, _, _ := strings.Cut(r.Name, "(")
			if _, after, ok := strings.Cut(r.Name, ")"); ok {
				key += after
			}
			out[key] = r
		}
		return out
	}
	close, far := value(same), value(pale)
	for _, name := range []string{"FD-Whole", "FD-Patch", "KD"} {
		if a, b := close[name], far[name]; !(a.Value < b.Value) || strings.Contains(a.Name, "FID") || !strings.Contains(a.Name, "(unknown-") {
			t.Errorf("%s: like images %+v, pale ones %+v", name, a, b)
		}
	}
	for _, name := range []string{"Precision", "Recall", "Diversity"} {
		if v := close[name].Value; !(v > 0 && v <= 1.2) {
			t.Errorf("%s of like images is %v", name, v)
		}
	}
	if !(far["Diversity"].Value < close["Diversity"].Value) {
		t.Errorf("diversity of pale images %v, of like ones %v", far["Diversity"].Value, close["Diversity"].Value)
	}
	if w := m.Warnings(8); len(w) != 2 || !strings.Contains(w[0], "8 images are few") || !strings.Contains(w[1], "9 real images") {
		t.Errorf("warnings %q", w)
	}

	// Statistics in a file give the same distance, and no more than distances.
	whole, patch := m.Moments()
	path := filepath.Join(t.TempDir(), "real.npz")
	if err := stats.WriteNPZ(path, whole); err != nil {
		t.Fatal(err)
	}
	if whole, err = stats.ReadNPZ(path); err != nil {
		t.Fatal(err)
	}
	if err := m.ReferTo(whole, patch); err != nil {
		t.Fatal(err)
	}
	again, err := m.Results(same, prompts, captions, opt)
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != 4 || math.Abs(again[0].Value-close["FD-Whole"].Value) > 1e-6*again[0].Value {
		t.Errorf("from a file: %+v, want %+v", again, close["FD-Whole"])
	}
}

// TestMeterNames: only the defining weights give FID and CLIP score.
func TestMeterNames(t *testing.T) {
	m := meter(t, "lightning", true)
	for _, c := range []struct {
		release inception.Release
		sha     string
		want    []string
	}{
		{inception.FID, vitL14SHA256, []string{"FID-Whole", "FID-Patch", "KID", "Precision(inception)", "Recall(inception)", "Diversity(inception)", "CLIP score"}},
		{inception.NSFWJS, "0123456789", []string{"FD(nsfwjs-inception)-Whole", "FD(nsfwjs-inception)-Patch", "KD(nsfwjs-inception)",
			"Precision(nsfwjs-inception)", "Recall(nsfwjs-inception)", "Diversity(nsfwjs-inception)", "CLIP score(01234567)"}},
	} {
		m.extractor.Release, m.scorer.SHA256 = c.release, c.sha
		for k, want := range c.want {
			if got := m.name(kind(k)); got != want {
				t.Errorf("named %q, want %q", got, want)
			}
		}
	}
	if w := m.Warnings(5000); len(w) != 1 || !strings.Contains(w[0], "is not convention lightning's ViT-L/14") {
		t.Errorf("warnings %q", w)
	}
	m.Standard = Standard{Name: "tf1"}
	m.extractor.Release = inception.FID
	if got := m.name(frechetWhole); got != "FID" {
		t.Errorf("named %q", got)
	}
}

func TestMeterBadInput(t *testing.T) {
	m := meter(t, "lightning", false)
	looks := invented(8, "x", 0, 1)
	for i := range looks {
		looks[i].Cropped = false
	}
	_, empty := m.Look([]images.RGB{images.New(4, 4), {}})
	few := m.Refer(looks[:7])
	narrow, err := stats.FromMeanCovariance(make([]float64, 768), mat.NewSymDense(768, nil), 0)
	if err != nil {
		t.Fatal(err)
	}
	dims := m.ReferTo(nil, narrow)
	_, one := m.Results(looks[:1], []string{"a"}, nil, stats.Resampling{})
	_, none := m.Results(nil, nil, nil, stats.Resampling{})
	_, prompts := m.Results(looks, []string{"a"}, nil, stats.Resampling{})
	_, unknown := FindStandard("fid")
	e := m.extractor.e
	_, without := OpenMeter(e, m.Standard, Sources{}, 2)
	_, missing := OpenMeter(e, m.Standard, Sources{Inception: "nowhere.safetensors"}, 2)
	path, err := random()
	if err != nil {
		t.Fatal(err)
	}
	_, clipless := OpenMeter(e, m.Standard, Sources{Inception: path, CLIP: t.TempDir()}, 2)
	_, wrong := OpenExtractor(e, filepath.Join(miniDir, "clip", "model.safetensors"), 2)
	for want, err := range map[string]error{
		"image 1: an image of 0×0 pixels is empty":                          empty,
		"7 real images are too few":                                         few,
		"statistics of patches have 768 dimensions":                         dims,
		"1 images cannot be measured":                                       one,
		"0 images cannot be measured":                                       none,
		"8 images, 1 prompts":                                               prompts,
		"only lightning, dmd2, pytorch-fid, tf1, mini and mini-clip":        unknown,
		"lightning needs the weights":                                       without,
		"curl -LO https://github.com/mseitzer":                              missing,
		"neither a CLIPModel (config.json) nor an open_clip model":          clipless,
		"these are not the weights of pytorch-fid's Inception network":      wrong,
		`tensor "Conv2d_1a_3x3.conv.weight" of shape [32 3 3 3] is missing`: wrong,
		"6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2":  without,
		"hf download openai/clip-vit-large-patch14":                         clipless,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	// Small images have no patch: no number is made up for it.
	if err := m.Refer(looks); err != nil {
		t.Fatal(err)
	}
	var started []string
	m.Started = func(metric string) { started = append(started, metric) }
	results, err := m.Results(looks, make([]string, 8), nil, stats.Resampling{Resamples: 20})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(started, names(results)) {
		t.Errorf("announced %q, computed %q", started, names(results))
	}
	for _, r := range results {
		if strings.Contains(r.Name, "Patch") {
			t.Errorf("images that are smaller than a patch have %+v", r)
		}
	}
}

// A Look can be kept between runs.
func TestLookIsKept(t *testing.T) {
	want := Look{Whole: []float32{1.5, -2.25e-8}, Cropped: true, Embedding: []float64{0.1, 1 / 3.0}}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Look
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Whole, want.Whole) || got.Patch != nil || !got.Cropped || !slices.Equal(got.Embedding, want.Embedding) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func names(results []Result) (out []string) {
	for _, r := range results {
		out = append(out, r.Name)
	}
	return out
}
