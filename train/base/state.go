package base

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"fewstep/engine"
	"fewstep/internal/atomicfile"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
)

// A part's training is kept in the model directory: training/PART.safetensors while it is under way (weights, optimizer
// state and, in the header, how far it is), training/PART.json when it is done.
const stateFolder = "training"

// record says by which recipe a part was trained and how far.
type record struct {
	Recipe  string `json:"recipe"`  // digest of the part's settings, see recipeDigest
	Samples int64  `json:"samples"` // seen
	Steps   int64  `json:"steps"`   // of the optimizer
}

func (t *Trainer) statePath(part, ext string) string {
	return filepath.Join(t.Config.Model, stateFolder, part+ext)
}

// recipeDigest stands for all that decides a part's training: its settings, the seed, the data.
func (t *Trainer) recipeDigest(settings any) (string, error) {
	data, err := t.train.Digest()
	if err != nil {
		return "", err
	}
	c := t.Config
	raw, err := json.Marshal([]any{settings, c.Seed, c.Resolution, c.Compute, c.Captions, data})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8]), nil
}

// isDone says whether a part was trained to its end by this recipe. One that another recipe trained is an error.
func (t *Trainer) isDone(part, recipe string) (bool, error) {
	path := t.statePath(part, ".json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return false, fmt.Errorf("%s: %w; remove it to train the %s again", path, err, part)
	}
	if r.Recipe != recipe {
		return false, fmt.Errorf("%s: the %s there was trained by another recipe or on other data; remove this file to train it again, or set its samples to 0 to keep it", path, part)
	}
	return true, nil
}

// saveState writes weights and optimizer state.
func (t *Trainer) saveState(part, recipe string, params *engine.Params, o *engine.Optimizer, done int64) error {
	var tensors []weights.Tensor
	add := func(specs []nn.Spec, prefix string, value func(nn.Spec) ([]float32, error)) {
		for _, s := range specs {
			tensors = append(tensors, weights.Tensor{Name: prefix + s.Name, DType: weights.F32, Shape: s.Dims, Fill: func() ([]byte, error) {
				v, err := value(s)
				if err != nil {
					return nil, err
				}
				return weights.Encode(v, weights.F32)
			}})
		}
	}
	add(params.Specs, "weights/", func(s nn.Spec) ([]float32, error) { return t.e.Floats(params.Get(s.Name)) })
	specs, value := t.e.SaveOptimizer(o)
	add(specs, "state/", value)
	if err := os.MkdirAll(filepath.Dir(t.statePath(part, "")), 0o777); err != nil {
		return err
	}
	return weights.Write(t.statePath(part, ".safetensors"), tensors, map[string]string{"recipe": recipe,
		"samples": strconv.FormatInt(done, 10), "steps": strconv.FormatInt(o.Steps, 10)})
}

// loadState gives the saved weights and a function that puts the optimizer's state back; nil without a state.
func (t *Trainer) loadState(part, recipe string, specs []nn.Spec) (v engine.Tensors, r record, restore func(*engine.Optimizer) error, err error) {
	path := t.statePath(part, ".safetensors")
	f, err := weights.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, r, nil, nil
	}
	if err != nil {
		return nil, r, nil, err
	}
	meta := f.Metadata()
	r.Recipe = meta["recipe"]
	if r.Recipe != recipe {
		return nil, r, nil, errors.Join(fmt.Errorf("%s: was saved by another recipe or on other data; go on with that one, or remove the file to begin again", path), f.Close())
	}
	for key, n := range map[string]*int64{"samples": &r.Samples, "steps": &r.Steps} {
		if *n, err = strconv.ParseInt(meta[key], 10, 64); err != nil {
			return nil, r, nil, errors.Join(fmt.Errorf("%s: %s: %w; remove the file to begin again", path, key, err), f.Close())
		}
	}
	read := pipeline.Reader(f)
	v = engine.Tensors{}
	for _, s := range specs {
		if v[s.Name], err = read(nn.Spec{Name: "weights/" + s.Name, Dims: s.Dims}); err != nil {
			return nil, r, nil, errors.Join(err, f.Close())
		}
	}
	return v, r, func(o *engine.Optimizer) error {
		err := t.e.RestoreOptimizer(o, func(s nn.Spec) ([]float32, error) {
			return read(nn.Spec{Name: "state/" + s.Name, Dims: s.Dims})
		}, r.Steps)
		return errors.Join(err, f.Close())
	}, nil
}

// finished notes that a part is done, once its weights are written, and drops its state.
func (t *Trainer) finished(part string, r record) error {
	if err := os.MkdirAll(filepath.Dir(t.statePath(part, "")), 0o777); err != nil {
		return err
	}
	if err := atomicfile.Write(t.statePath(part, ".json"), func(w io.Writer) error { return json.NewEncoder(w).Encode(r) }); err != nil {
		return err
	}
	if err := os.Remove(t.statePath(part, ".safetensors")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
