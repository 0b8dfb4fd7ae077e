package weights

import (
	"errors"
	"fewstep/internal/text"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// OpenModel opens the weights of one component folder of a diffusers pipeline
// (unet, vae, text_encoder, …), or the safetensors file that dir names. See
// ModelFiles for what it looks for.
func OpenModel(dir string) (Source, error) {
	found, err := findWeights(dir)
	if err != nil {
		return nil, err
	}
	if found.index == "" {
		return Open(found.files[0])
	}
	return openShards(found)
}

// ModelFiles are the files that OpenModel reads for dir: one weight file, or an
// index and its shards. Tried in order, for the base names of diffusers and
// transformers: the shard index, the plain file, then both of the fp16 variant;
// last, the only safetensors file of the folder, whatever its name.
func ModelFiles(dir string) ([]string, error) {
	found, err := findWeights(dir)
	if err != nil {
		return nil, err
	}
	if found.index == "" {
		return found.files, nil
	}
	return append([]string{found.index}, found.files...), nil
}

// ErrNoWeights is wrapped by the error for a folder without a weight file of any format.
var ErrNoWeights = errors.New("it holds no weights")

type foundWeights struct {
	index     string            // path of the shard index, "" for a single file
	weightMap map[string]string // tensor name to shard path
	files     []string
}

// weightNames are single files and indexes (which end in .json) by preference.
// Diffusers puts a variant in front of an index's last ending.
var weightNames = []string{
	"diffusion_pytorch_model.safetensors.index.json",
	"diffusion_pytorch_model.safetensors",
	"model.safetensors.index.json",
	"model.safetensors",
	"diffusion_pytorch_model.safetensors.index.fp16.json",
	"diffusion_pytorch_model.fp16.safetensors.index.json",
	"diffusion_pytorch_model.fp16.safetensors",
	"model.safetensors.index.fp16.json",
	"model.fp16.safetensors.index.json",
	"model.fp16.safetensors",
}

func findWeights(dir string) (foundWeights, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return foundWeights{}, fmt.Errorf("no model at %s: give a component folder of a diffusers pipeline or a safetensors file: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return foundWeights{}, fmt.Errorf("cannot open model: %w", err)
	}
	if !info.IsDir() {
		if strings.HasSuffix(dir, ".json") {
			return readIndex(dir)
		}
		return foundWeights{files: []string{dir}}, nil
	}
	for _, name := range weightNames {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return foundWeights{}, fmt.Errorf("cannot open model: %w", err)
		}
		if strings.HasSuffix(name, ".json") {
			return readIndex(path)
		}
		return foundWeights{files: []string{path}}, nil
	}
	return onlyWeights(dir)
}

func onlyWeights(dir string) (foundWeights, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return foundWeights{}, fmt.Errorf("cannot open model: %w", err)
	}
	var files []string
	pickles := false
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".safetensors":
			files = append(files, e.Name())
		case ".bin", ".pt", ".ckpt":
			pickles = true
		}
	}
	switch {
	case len(files) == 1:
		return foundWeights{files: []string{filepath.Join(dir, files[0])}}, nil
	case len(files) > 1:
		return foundWeights{}, fmt.Errorf("%s holds several weight files (%s): name one of them", dir, strings.Join(files, ", "))
	case pickles:
		return foundWeights{}, fmt.Errorf("%s holds no safetensors file, only pickled weights: %s", dir, PickleAdvice)
	}
	return foundWeights{}, fmt.Errorf("%s: %w: expected %s or another safetensors file", dir, ErrNoWeights, weightNames[1])
}

// readIndex reads a *.safetensors.index.json: {"weight_map": {tensor: shard}}.
func readIndex(path string) (foundWeights, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return foundWeights{}, fmt.Errorf("cannot open the shard index: %w", err)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := text.JSON(raw, &index); err != nil {
		return foundWeights{}, fmt.Errorf("%s: not a shard index: %w", path, err)
	}
	if len(index.WeightMap) == 0 {
		return foundWeights{}, fmt.Errorf("%s: not a shard index: weight_map is missing or empty", path)
	}
	found := foundWeights{index: path, weightMap: map[string]string{}}
	shards := map[string]bool{}
	for tensor, shard := range index.WeightMap {
		if !filepath.IsLocal(shard) {
			return foundWeights{}, fmt.Errorf("%s: tensor %s: the shard %q lies outside the folder", path, tensor, shard)
		}
		shard = filepath.Join(filepath.Dir(path), shard)
		found.weightMap[tensor] = shard
		shards[shard] = true
	}
	found.files = slices.Sorted(maps.Keys(shards))
	return found, nil
}

// sharded joins the shards of one model.
type sharded struct {
	index  string
	files  []*File
	byName map[string]*File
	names  []string
}

func openShards(found foundWeights) (*sharded, error) {
	s := &sharded{index: found.index, byName: map[string]*File{}}
	byPath := map[string]*File{}
	for _, path := range found.files {
		f, err := Open(path)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("%s: %w", found.index, err)
		}
		byPath[path] = f
		s.files = append(s.files, f)
	}
	s.names = slices.Sorted(maps.Keys(found.weightMap))
	for _, name := range s.names {
		path := found.weightMap[name]
		if _, ok := byPath[path].byName[name]; !ok {
			s.Close()
			return nil, fmt.Errorf("%s: the shard %s has no tensor %s: the files do not belong together", found.index, path, name)
		}
		s.byName[name] = byPath[path]
	}
	return s, nil
}

func (s *sharded) Names() []string { return slices.Clone(s.names) }

func (s *sharded) Tensor(name string) (Tensor, error) {
	f, ok := s.byName[name]
	if !ok {
		return Tensor{}, fmt.Errorf("%s: no tensor %s", s.index, name)
	}
	return f.Tensor(name)
}

func (s *sharded) Close() error {
	var failed error
	for _, f := range s.files {
		failed = errors.Join(failed, f.Close())
	}
	return failed
}
