package clip

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"fewstep/model/nn"
	"fewstep/model/weights"
)

// Model is a folder with both towers of a CLIP: transformers' CLIPModel, or an open_clip model. Either is described
// and read under transformers' names.
type Model struct {
	Dir        string
	Text       *TextConfig
	Vision     *VisionConfig
	Tokenizer  *Tokenizer
	Preprocess Preprocess

	openCLIP bool
}

// OpenModel reads the configs of a folder: config.json and preprocessor_config.json of a CLIPModel, or
// open_clip_config.json, which is taken only where there is no CLIPModel, as in the folders that hold both. The
// tokenizer's files (vocab.json, merges.txt, tokenizer_config.json) lie in the folder, or in tokenizerDir if that is
// not ""; without them a model of OpenAI's vocabulary size has OpenAI's vocabulary.
func OpenModel(dir, tokenizerDir string) (*Model, error) {
	m := &Model{Dir: dir}
	path := filepath.Join(dir, "config.json")
	_, err := os.Stat(path)
	switch {
	case err == nil:
		if m.Text, err = LoadTextConfig(path); err != nil {
			return nil, err
		}
		if m.Vision, err = LoadVisionConfig(path); err != nil {
			return nil, err
		}
		if m.Preprocess, err = loadPreprocess(filepath.Join(dir, "preprocessor_config.json"), m.Vision.ImageSize); err != nil {
			return nil, err
		}
	case errors.Is(err, fs.ErrNotExist):
		m.openCLIP = true
		if err := m.loadOpenCLIP(filepath.Join(dir, "open_clip_config.json")); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	if !m.Text.Projected || m.Text.ProjectionDim != m.Vision.ProjectionDim {
		return nil, fmt.Errorf("%s: the text encoder projects to %d values and the image encoder to %d: not the two towers of one CLIP", dir, m.Text.ProjectionDim, m.Vision.ProjectionDim)
	}
	if tokenizerDir == "" {
		tokenizerDir = dir
	}
	_, err = os.Stat(filepath.Join(tokenizerDir, "vocab.json"))
	if errors.Is(err, fs.ErrNotExist) && m.Text.VocabSize == StandardSize {
		m.Tokenizer, err = Standard().Tokenizer(m.Text.MaxPositions, endOfText)
	} else {
		m.Tokenizer, err = LoadTokenizer(tokenizerDir)
	}
	if err != nil {
		return nil, err
	}
	m.Tokenizer.MaxLength = min(m.Tokenizer.MaxLength, m.Text.MaxPositions)
	if m.openCLIP {
		m.Tokenizer.asOpenCLIP()
	}
	if n := m.Tokenizer.VocabSize(); n > m.Text.VocabSize {
		return nil, fmt.Errorf("%s: its text encoder knows %d tokens, the tokenizer in %s has %d", dir, m.Text.VocabSize, tokenizerDir, n)
	}
	return m, nil
}

// Read returns the tensors that specs name, as f32.
func (m *Model) Read(specs []nn.Spec) (map[string][]float32, error) {
	src, err := m.open()
	if err != nil {
		return nil, err
	}
	defer src.Close()
	names := src.Names()
	out := map[string][]float32{}
	for _, s := range specs {
		from := tensorSource{name: s.Name, dims: s.Dims}
		if m.openCLIP {
			from = openCLIPSource(s)
		}
		if !slices.Contains(names, from.name) {
			return nil, fmt.Errorf("%s: tensor %q of shape %v is missing", m.Dir, from.name, from.dims)
		}
		t, err := src.Tensor(from.name)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(t.Shape, from.dims) {
			return nil, fmt.Errorf("%s: tensor %q has the shape %v, the config wants %v", m.Dir, from.name, t.Shape, from.dims)
		}
		values, err := t.Float32()
		if err != nil {
			return nil, err
		}
		out[s.Name] = from.take(values)
	}
	return out, nil
}

func (m *Model) open() (weights.Source, error) { return weights.OpenModel(m.weightsPath()) }

// WeightFiles are the files that Read reads.
func (m *Model) WeightFiles() ([]string, error) { return weights.ModelFiles(m.weightsPath()) }

// weightsPath is the folder, or one file in it: a folder of open_clip's may hold another model's weights too.
func (m *Model) weightsPath() string {
	if m.openCLIP {
		for _, name := range []string{"open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"} {
			path := filepath.Join(m.Dir, name)
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	return m.Dir
}

// tensorSource says where a parameter is found in a file.
type tensorSource struct {
	name       string
	dims       []int // in the file
	fused      bool  // the file has queries, keys and values in one tensor, of which this is part 0, 1 or 2
	part       int
	transposed bool // the file has [in, out]
}

// take cuts the parameter out of the file's tensor.
func (t tensorSource) take(values []float32) []float32 {
	switch {
	case t.fused:
		third := len(values) / 3
		return values[t.part*third : (t.part+1)*third]
	case t.transposed:
		rows, columns := t.dims[0], t.dims[1]
		out := make([]float32, len(values))
		for i := range rows {
			for j := range columns {
				out[j*rows+i] = values[i*columns+j]
			}
		}
		return out
	}
	return values
}
