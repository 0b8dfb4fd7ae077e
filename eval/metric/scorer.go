package metric

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"fewstep/data/images"
	"fewstep/engine"
	"fewstep/model/clip"
	"fewstep/model/nn"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Scorer is a CLIP on a device, for the score of images and captions.
type Scorer struct {
	SHA256 string // of its weights file; of all hashes, one a line, if there are several

	e     *engine.Engine
	model *clip.Model
	bind  engine.Bind
	batch int
}

// OpenScorer loads a folder with a CLIPModel or an open_clip model (see [clip.OpenModel]).
func OpenScorer(e *engine.Engine, dir, tokenizerDir string, batch int) (*Scorer, error) {
	m, err := clip.OpenModel(dir, tokenizerDir)
	if err != nil {
		return nil, err
	}
	s := &Scorer{e: e, model: m, bind: engine.Bind{}, batch: max(batch, 1)}
	files, err := m.WeightFiles()
	if err != nil {
		return nil, err
	}
	var hashes []string
	for _, f := range files {
		h, err := weights.HashFile(context.Background(), f)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, h)
	}
	s.SHA256 = hashes[0]
	if len(hashes) > 1 {
		sum := sha256.Sum256([]byte(strings.Join(hashes, "\n") + "\n"))
		s.SHA256 = hex.EncodeToString(sum[:])
	}
	side := m.Vision.ImageSize
	for _, tower := range []struct {
		name  string
		block nn.Block
		in    []shapes.Shape
	}{
		{netVision, m.Vision.Vision(""), []shapes.Shape{shapes.Make(dtypes.Float32, 1, side, side, m.Vision.Channels)}},
		{netText, m.Text.Text(""), []shapes.Shape{shapes.Make(dtypes.Int32, 1, m.Text.MaxPositions), shapes.Make(dtypes.Int32, 1)}},
	} {
		specs, err := nn.Trace(e.Backend, tower.block, tower.in...)
		if err != nil {
			return nil, err
		}
		tensors, err := m.Read(specs)
		if err != nil {
			s.Free()
			return nil, err
		}
		if s.bind[tower.name], err = e.Load(specs, tensors, nil); err != nil {
			s.Free()
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return s, nil
}

// Free gives the model's device memory back.
func (s *Scorer) Free() {
	for _, p := range s.bind {
		if p != nil {
			p.FreeAll()
		}
	}
}

// prepare makes what an image encoder takes of an image, [S·S·3].
func (c Scoring) prepare(p clip.Preprocess, m images.RGB) ([]float32, error) {
	if c.Lanczos > 0 {
		m = m.CenterSquare().Resize(c.Lanczos, c.Lanczos, images.Lanczos)
	}
	width, height := p.Size(m.Width, m.Height)
	m = m.Resize(width, height, images.Bicubic)
	var err error
	if p.Floor {
		m, err = m.Crop((width-p.Crop)/2, (height-p.Crop)/2, p.Crop, p.Crop)
	} else {
		m, err = m.CenterCrop(p.Crop, p.Crop)
	}
	if err != nil {
		return nil, err
	}
	out := make([]float32, len(m.Pix))
	for i, v := range m.Pix {
		out[i] = (float32(v)/255 - float32(p.Mean[i%3])) / float32(p.Std[i%3])
	}
	return out, nil
}

// Images are the projected embeddings of prepared images, of unit length.
func (s *Scorer) Images(prepared [][]float32) ([][]float64, error) {
	v := s.model.Vision
	f := engine.Function{Key: "metric_scored/" + v.Vision("").Kind, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(v.Vision(netVision), in...)[:1]
	}}
	size := v.ImageSize * v.ImageSize * v.Channels
	out := make([][]float64, 0, len(prepared))
	for start := 0; start < len(prepared); start += s.batch {
		batch := prepared[start:min(start+s.batch, len(prepared))]
		flat := make([]float32, s.batch*size)
		for i, values := range batch {
			copy(flat[i*size:(i+1)*size], values)
		}
		a, err := s.e.Upload(flat, s.batch, v.ImageSize, v.ImageSize, v.Channels)
		if err != nil {
			return nil, err
		}
		res, err := call(s.e, f, s.bind, a)
		if err != nil {
			return nil, fmt.Errorf("embedding images for the CLIP score: %w", err)
		}
		for i := range batch {
			out = append(out, unit(res[0][i*v.ProjectionDim:(i+1)*v.ProjectionDim]))
		}
	}
	return out, nil
}

// Texts are the projected embeddings of captions, of unit length.
func (s *Scorer) Texts(captions []string) ([][]float64, error) {
	return embedTexts(s.e, s.model.Text, s.model.Tokenizer, s.bind, s.batch, captions)
}
