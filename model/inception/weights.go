package inception

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/model/nn"
	"fewstep/model/weights"
)

// Release is a published set of weights.
type Release struct {
	Name   string   // what features of it are called
	FID    bool     // distances in them are FID
	Last   LastPool // the structure that they are for
	File   string   // the published file
	URL    string
	SHA256 string // of the published file
	Size   int64  // of the published file in bytes
	Fetch  string // commands that fetch it, and convert it where it must be

	Content string // hash of the tensors where it is known, see Content
	Cached  string // file below the user's cache folder that Fetch makes, "" = it is put anywhere
	Unit    bool   // the network takes x/255, whatever the convention
}

// The releases that are known by their hashes.
var (
	// FID is pytorch-fid's conversion of TensorFlow's inception-2015-12-05 graph, which clean-fid and torch-fidelity use
	// in other wrappings. The first 8 digits of the hash are part of the file's name.
	FID = Release{
		Name: "inception", FID: true, Last: Max,
		File:   "pt_inception-2015-12-05-6726825d.pth",
		URL:    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
		SHA256: "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", Size: 95_628_359,
		Fetch: "curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
	}
	// NSFWJS is a Keras network fine-tuned from ImageNet weights, in the npm package nsfwjs: pretrained, and independent
	// of this project, but not FID's.
	NSFWJS = Release{
		Name: "nsfwjs-inception", Last: Average,
		File:   "nsfwjs-4.4.0.tgz",
		SHA256: "585cd178f3b994337c4d10a87b080d342fc52f8b9bf0085c4d1f345a3a1c5382", Size: 24_973_068,
		Fetch:   "python3 scripts/fetch_nsfwjs.py",
		Content: "17bf9b78d55029299171e55137414425441eccfc81e89866a5b8fa5bbba09b38",
		Cached:  filepath.Join("fewstep", "models", "nsfwjs-inception.safetensors"),
		Unit:    true,
	}
)

// Releases are all of them.
func Releases() []Release { return []Release{FID, NSFWJS} }

// Resolve returns the file of a release that is fetched into the user's cache folder by its name, any other path as it
// is.
func Resolve(path string) (string, error) {
	for _, r := range Releases() {
		if r.Cached != "" && path == r.Name {
			cache, err := os.UserCacheDir()
			return filepath.Join(cache, r.Cached), err
		}
	}
	return path, nil
}

// Metadata keys by which a converted file names what it was made from.
const (
	sourceKey  = "inception.source_sha256"  // SHA-256 of the published file
	contentKey = "inception.content_sha256" // see Content
)

// Weights are a network's tensors under the state dict's names, and what they are.
type Weights struct {
	Path    string
	Release Release // a known one, or one that is named after its content
	Content string
	Tensors map[string][]float32

	sha256 string // of a .pth file
}

// Open reads a state dict: the published .pth file, or a .safetensors file with the same names. Specs are those of
// [StateDict].
//
// A .pth file is known by its own hash. A .safetensors file is known by the hash of its content, or if its metadata has
// that hash and the one of a known file that it was converted from, as scripts/convert_inception.py writes them: a
// record that a changed file does not fit, though one can be made up. Other weights are named "unknown-" and the first 8 digits of their content's hash, and taken for the FID structure unless
// their metadata says otherwise.
func Open(path string, specs []nn.Spec) (*Weights, error) {
	w := &Weights{Path: path, Tensors: map[string][]float32{}}
	var read func(name string) ([]int, []float32, error)
	var names []string
	metadata := map[string]string{}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".safetensors":
		f, err := weights.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		names, metadata = f.Names(), f.Metadata()
		read = func(name string) ([]int, []float32, error) {
			t, err := f.Tensor(name)
			if err != nil {
				return nil, nil, err
			}
			values, err := t.Float32()
			return t.Shape, values, err
		}
	case ".pth", ".pt":
		p, err := openPTH(path)
		if err != nil {
			return nil, err
		}
		names, w.sha256, read = slices.Collect(maps.Keys(p.tensors)), p.sha256, p.float32
	default:
		return nil, fmt.Errorf("%s: give the .pth or .safetensors file of an Inception network", path)
	}
	for _, s := range specs {
		if !slices.Contains(names, s.Name) {
			return nil, fmt.Errorf("%s: tensor %q of shape %v is missing: these are not the weights of pytorch-fid's Inception network", path, s.Name, s.Dims)
		}
		shape, values, err := read(s.Name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !slices.Equal(shape, s.Dims) {
			return nil, fmt.Errorf("%s: tensor %q has the shape %v, pytorch-fid's Inception network has %v", path, s.Name, shape, s.Dims)
		}
		w.Tensors[s.Name] = values
	}
	if err := check(w.Tensors); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	w.Content = Content(specs, w.Tensors)
	return w, w.identify(metadata)
}

func (w *Weights) identify(metadata map[string]string) error {
	recorded, ok := metadata[contentKey]
	if ok && recorded != w.Content {
		return fmt.Errorf("%s: the tensors have changed since the file was converted (content %s, recorded %s): convert it again", w.Path, w.Content, recorded)
	}
	for _, r := range Releases() {
		if w.Content == r.Content || w.sha256 == r.SHA256 || ok && r.Content == "" && metadata[sourceKey] == r.SHA256 {
			w.Release = r
			return nil
		}
	}
	w.Release = Release{Name: "unknown-" + w.Content[:8], Last: Max, File: filepath.Base(w.Path)}
	if last, ok := metadata["inception.last_pool"]; ok {
		w.Release.Last = LastPool(last)
		if w.Release.Last != Max && w.Release.Last != Average {
			return fmt.Errorf("%s: metadata inception.last_pool is %q, only %q and %q are known", w.Path, last, Max, Average)
		}
	}
	return nil
}

// check finds values that no network has.
func check(tensors map[string][]float32) error {
	for name, values := range tensors {
		for i, v := range values {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return fmt.Errorf("tensor %q is %v at element %d", name, v, i)
			}
			if v < 0 && strings.HasSuffix(name, "running_var") {
				return fmt.Errorf("tensor %q has the negative variance %v at element %d", name, v, i)
			}
		}
	}
	return nil
}

// Content is the SHA-256 of tensors as f32, whatever file they lie in: for each parameter of the network in the order
// of names, the line "name [d, d]\n" and the values in little-endian order.
func Content(specs []nn.Spec, tensors map[string][]float32) string {
	sorted := slices.Clone(specs)
	slices.SortFunc(sorted, func(a, b nn.Spec) int { return strings.Compare(a.Name, b.Name) })
	digest := sha256.New()
	var raw []byte
	for _, s := range sorted {
		fmt.Fprintf(digest, "%s [%s]\n", s.Name, strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Dims), " ", ", "), "[]"))
		raw = raw[:0]
		for _, v := range tensors[s.Name] {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
		}
		digest.Write(raw)
	}
	return hex.EncodeToString(digest.Sum(nil))
}
