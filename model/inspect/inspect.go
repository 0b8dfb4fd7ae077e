// Package inspect says what a weights file is, by the names and shapes of its tensors: which part of which kind of
// model, how large, in which element types, whether it is whole, and what loads it. That takes the header alone; on
// request it reads the values too, whether they are finite and what their hash is.
package inspect

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/model/bundle"
	"fewstep/model/ldm"
	"fewstep/model/prediction"
	"fewstep/model/weights"
)

// Report describes one weights file, or a component folder's files together.
type Report struct {
	Path       string            `json:"path"`
	Kind       Kind              `json:"kind"`
	Family     string            `json:"family,omitempty"` // of models: "SDXL", …
	Detail     string            `json:"detail,omitempty"` // naming, rank, …
	LoadedBy   string            `json:"loaded_by"`
	Problems   []string          `json:"problems"`           // what is missing, damaged or does not fit
	Predicts   string            `json:"predicts,omitempty"` // of a UNet in a file: "epsilon", "v_prediction with zero terminal SNR", …
	LeftOut    []string          `json:"left_out,omitempty"` // tensors that no part of a model has
	Tensors    int               `json:"tensors"`
	Parameters int64             `json:"parameters"`
	Bytes      int64             `json:"bytes"`
	DTypes     map[string]int    `json:"dtypes"`               // tensors by element type
	Values     bool              `json:"values_checked"`       // the four fields below were filled
	NotFinite  []string          `json:"not_finite,omitempty"` // tensors with NaN or infinity
	Unread     []string          `json:"unread,omitempty"`     // tensors whose values cannot be checked
	Hash       string            `json:"hash,omitempty"`       // of the data against modelspec's: Sound or Differs; empty without one
	Metadata   map[string]string `json:"metadata,omitempty"`
}

// Values of Report.Hash.
const (
	Sound   = "sound"
	Differs = "differs"
)

// Options say how closely to look.
type Options struct {
	Values   bool                    // read every value
	Progress func(done, total int64) // bytes read of one file; may be nil
}

// Path examines a safetensors file, a component folder, a diffusers directory with all its components, or a folder of
// several weight files, each by itself.
func Path(path string, opt Options) ([]Report, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.IsDir() {
		r, err := File(path, opt)
		return []Report{r}, err
	}
	if _, err := os.Stat(filepath.Join(path, "model_index.json")); err != nil {
		return folder(path, opt)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var all []Report
	for _, e := range entries {
		folder := filepath.Join(path, e.Name())
		if !e.IsDir() {
			continue
		}
		if _, err := weights.ModelFiles(folder); errors.Is(err, weights.ErrNoWeights) {
			continue // a tokenizer, the scheduler
		}
		r, err := File(folder, opt)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: a diffusers directory without weights", path)
	}
	return all, nil
}

// folder examines a component, or else every weight file of a folder.
func folder(path string, opt Options) ([]Report, error) {
	files := []string{path}
	if _, err := weights.ModelFiles(path); err != nil {
		names, _ := os.ReadDir(path)
		files = nil
		for _, e := range names {
			if filepath.Ext(e.Name()) == ".safetensors" {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, err
		}
	}
	var all []Report
	for _, f := range files {
		r, err := File(f, opt)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// File examines one safetensors file, or a component folder's files together.
func File(path string, opt Options) (Report, error) {
	src, err := weights.OpenModel(path)
	if err != nil {
		return Report{}, err
	}
	defer src.Close()
	r := Report{Path: path, DTypes: map[string]int{}, Problems: []string{}}
	if f, ok := src.(*weights.File); ok {
		r.Metadata = f.Metadata()
	}
	v := classify(src)
	r.Kind, r.Family, r.Detail, r.LoadedBy = v.kind, v.family, v.detail, v.loadedBy
	r.LeftOut = v.leftOut
	r.Problems = append(r.Problems, v.problems...)
	var tensors []weights.Tensor
	for _, name := range src.Names() {
		t, err := src.Tensor(name)
		if err != nil {
			return Report{}, err
		}
		tensors = append(tensors, t)
		r.Tensors++
		r.Parameters += int64(t.Elements())
		r.Bytes += int64(t.Elements()) * int64(t.DType.Size())
		r.DTypes[string(t.DType)]++
	}
	if err := r.checkStructure(src); err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	if opt.Values {
		err = r.checkValues(tensors, opt.Progress)
	}
	return r, err
}

// checkStructure compares the tensors with the config beside them, in the metadata, or derived from their shapes.
func (r *Report) checkStructure(src weights.Source) error {
	component := map[Kind]string{UNet: ldm.UNet, VAE: ldm.VAE, Text: ldm.Text}[r.Kind]
	if info, err := os.Stat(r.Path); err == nil && info.IsDir() && component != "" {
		where := filepath.Join(r.Path, "config.json")
		config, err := os.ReadFile(where)
		if errors.Is(err, fs.ErrNotExist) || r.Kind == UNet && !ldm.Family(r.Family).Drawable() {
			return nil
		} else if err != nil {
			return err
		}
		named, left, err := ldm.Component(r.Path, component, src)
		if err != nil {
			return err
		}
		src, others := bundle.Own(component, named, config, where)
		r.leftOut(append(left, others...))
		return bundle.Check(component, src, config, where)
	}
	if !ldm.Family(r.Family).Drawable() || r.Kind != SingleFile && r.Kind != UNet {
		return nil
	}
	f, ok := src.(*weights.File)
	if !ok {
		return nil
	}
	b, err := bundle.OfFile(f, bundle.Options{})
	if errors.Is(err, bundle.ErrUnknownHeads) {
		r.Detail += "; its config.json is needed to load it (--config)"
		return nil
	} else if err != nil {
		return err
	}
	r.leftOut(b.LeftOut())
	kind, notes, err := b.Prediction()
	if err != nil {
		return err
	}
	if r.Predicts = kind.String(); r.Predicts != prediction.Epsilon {
		r.Detail += "; predicts " + r.Predicts
	}
	for _, note := range notes {
		r.Detail += "; " + note
	}
	if b.Layout != bundle.SingleFile {
		return nil
	}
	if err := b.Complete(); err != nil {
		return err
	}
	if !b.HasTokenizers() {
		r.Detail += "; it needs --config"
	}
	return nil
}

// leftOut tells of tensors that no part of a model has.
func (r *Report) leftOut(names []string) {
	if len(names) > 0 {
		r.LeftOut = names
		r.Detail += fmt.Sprintf("; %d tensors belong to none, such as %s", len(names), names[0])
	}
}

// Types lists the element types, the most frequent first: "F16 ×900, F32 ×3".
func (r Report) Types() string {
	types := slices.SortedFunc(maps.Keys(r.DTypes), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.DTypes[b], r.DTypes[a]), cmp.Compare(a, b))
	})
	for i, t := range types {
		types[i] = fmt.Sprintf("%s ×%d", t, r.DTypes[t])
	}
	return strings.Join(types, ", ")
}
