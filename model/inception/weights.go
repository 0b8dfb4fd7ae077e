package inception

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
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
	Size   int64
	Fetch  string // commands that fetch it, and convert it where it must be
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
		File: "nsfwjs-4.4.0.tgz", URL: "https://registry.npmjs.org/nsfwjs/-/nsfwjs-4.4.0.tgz",
		Fetch: "python3 scripts/fetch_nsfwjs.py nsfwjs-inception.safetensors",
	}
)

// Releases are all of them.
func Releases() []Release { return []Release{FID, NSFWJS} }

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
}

// Open reads a state dict: the published .pth file, or a .safetensors file with the same names. Specs are those of
// [Network].
//
// A .pth file is known by its own hash. A .safetensors file is known if its metadata has the hash of a known
// file that it was converted from and the hash of its own content, as scripts/convert_inception.py and
// scripts/fetch_nsfwjs.py write them: a record that a changed file does not fit, though one can be made up. Other
// weights are named "unknown-" and the first 8 digits of their content's hash, and taken for the FID structure unless
// their metadata says otherwise.
func Open(path string, specs []nn.Spec) (*Weights, error) {
	w := &Weights{Path: path, Tensors: map[string][]float32{}}
	var src weights.Source
	metadata := map[string]string{}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".safetensors":
		f, err := weights.Open(path)
		if err != nil {
			return nil, err
		}
		src, metadata = f, f.Metadata()
	default:
		return nil, fmt.Errorf("%s: give the .safetensors file of an Inception network", path)
	}
	defer src.Close()
	names := src.Names()
	for _, s := range specs {
		if !slices.Contains(names, s.Name) {
			return nil, fmt.Errorf("%s: tensor %q of shape %v is missing: these are not the weights of pytorch-fid's Inception network", path, s.Name, s.Dims)
		}
		t, err := src.Tensor(s.Name)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(t.Shape, s.Dims) {
			return nil, fmt.Errorf("%s: tensor %q has the shape %v, pytorch-fid's Inception network has %v", path, s.Name, t.Shape, s.Dims)
		}
		if w.Tensors[s.Name], err = t.Float32(); err != nil {
			return nil, err
		}
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
	if ok {
		for _, r := range Releases() {
			if metadata[sourceKey] == r.SHA256 {
				w.Release = r
				return nil
			}
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
