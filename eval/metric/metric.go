package metric

import (
	"fmt"
	"math"
	"path/filepath"

	"fewstep/engine"
	"fewstep/model/clip"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Convention names how the metrics of this package are made.
const Convention = "mini-clip"

// Names of the metrics.
const (
	Whole     = "FD-Whole"
	Patch     = "FD-Patch"
	Score     = "CLIP score"
	Diversity = "Diversity" // with the features' name behind it, where they are not mini-clip's
)

// Network is a pipeline's CLIPModel on a device.
type Network struct {
	e         *engine.Engine
	vision    *clip.VisionConfig
	text      *clip.TextConfig
	tokenizer *clip.Tokenizer
	bind      engine.Bind
	batch     int
}

// Names under which the towers' parameters are bound.
const (
	netVision = "metric_vision"
	netText   = "metric_text"
)

// Open loads the CLIPModel of a pipeline; programs work on batches of the given size.
func Open(e *engine.Engine, p *pipeline.Pipeline, batch int) (*Network, error) {
	if p.Vision == nil {
		return nil, fmt.Errorf("%s has no clip folder with a CLIPModel, which the metrics need; take one from a pipeline trained on the same images", p.Dir)
	}
	last := len(p.Text) - 1 // SDXL's second
	n := &Network{e: e, vision: p.Vision, tokenizer: p.Tokenizer[last], bind: engine.Bind{}, batch: batch}
	var err error
	if n.text, err = clip.LoadTextConfig(filepath.Join(p.Dir, "clip", "config.json")); err != nil {
		return nil, err
	}
	if n.text.VocabSize != p.Text[last].VocabSize || n.text.ProjectionDim != n.vision.ProjectionDim {
		return nil, fmt.Errorf("%s/clip: its text encoder knows %d tokens and projects to %d values; the model's tokenizer has %d tokens and the image encoder projects to %d",
			p.Dir, n.text.VocabSize, n.text.ProjectionDim, p.Text[last].VocabSize, n.vision.ProjectionDim)
	}
	values, err := pipeline.Read(p.Dir, "clip")
	if err != nil {
		return nil, err
	}
	load := func(net string, b nn.Block, in ...shapes.Shape) error {
		specs, err := nn.Trace(e.Backend, b, in...)
		if err != nil {
			return err
		}
		if n.bind[net], err = e.Load(specs, values, nil); err != nil {
			return fmt.Errorf("%s/clip: %w", p.Dir, err)
		}
		return nil
	}
	side := n.vision.ImageSize
	if err := load(netVision, n.vision.Vision(""), shapes.Make(dtypes.Float32, 1, side, side, n.vision.Channels)); err != nil {
		return nil, err
	}
	return n, load(netText, n.text.Text(""), shapes.Make(dtypes.Int32, 1, n.text.MaxPositions), shapes.Make(dtypes.Int32, 1))
}

// Free gives the network's device memory back.
func (n *Network) Free() {
	for _, p := range n.bind {
		p.FreeAll()
	}
}

func (n *Network) call(f engine.Function, in ...*engine.Array) ([][]float32, error) {
	return call(n.e, f, n.bind, in...)
}

// call runs f, frees its inputs and returns its outputs on the host.
func call(e *engine.Engine, f engine.Function, bind engine.Bind, in ...*engine.Array) ([][]float32, error) {
	defer engine.Free(in...)
	out, err := e.Call(f, bind, in...)
	if err != nil {
		return nil, err
	}
	defer engine.Free(out...)
	host := make([][]float32, len(out))
	for i, a := range out {
		if host[i], err = e.Floats(a); err != nil {
			return nil, err
		}
	}
	return host, nil
}

// Text returns the projected embedding of each prompt, of unit length.
func (n *Network) Text(prompts []string) ([][]float64, error) {
	return embedTexts(n.e, n.text, n.tokenizer, n.bind, n.batch, prompts)
}

// embedTexts runs the text tower bound to netText.
func embedTexts(e *engine.Engine, c *clip.TextConfig, tokenizer *clip.Tokenizer, bind engine.Bind, size int, prompts []string) ([][]float64, error) {
	f := engine.Function{Key: "metric_text/" + c.Text("").Kind, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(c.Text(netText), in...)[clip.TextProjected:]
	}}
	t, out := c.MaxPositions, make([][]float64, 0, len(prompts))
	for start := 0; start < len(prompts); start += size {
		batch := prompts[start:min(start+size, len(prompts))]
		ids, end := make([]int32, size*t), make([]int32, size)
		for i := range size {
			id, _ := tokenizer.Encode(batch[min(i, len(batch)-1)])
			copy(ids[i*t:(i+1)*t], id)
			end[i] = c.EOSPosition(id)
		}
		a, err := e.Upload(ids, size, t)
		if err != nil {
			return nil, err
		}
		b, err := e.Upload(end, size)
		if err != nil {
			return nil, err
		}
		res, err := call(e, f, bind, a, b)
		if err != nil {
			return nil, fmt.Errorf("encoding prompts for the CLIP score: %w", err)
		}
		d := c.ProjectionDim
		for i := range batch {
			out = append(out, unit(res[0][i*d:(i+1)*d]))
		}
	}
	return out, nil
}

// Similarity is the CLIP score of one image: 100 times the cosine of unit vectors, no less than 0.
func Similarity(image, text []float64) float64 {
	dot := 0.0
	for i := range image {
		dot += image[i] * text[i]
	}
	return 100 * max(dot, 0)
}

func unit(v []float32) []float64 {
	length, out := 0.0, make([]float64, len(v))
	for i, x := range v {
		out[i] = float64(x)
		length += out[i] * out[i]
	}
	length = math.Sqrt(length)
	for i := range out {
		out[i] /= max(length, 1e-12)
	}
	return out
}
