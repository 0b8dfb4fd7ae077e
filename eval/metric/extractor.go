package metric

import (
	"fmt"

	"fewstep/engine"
	"fewstep/model/inception"
	"fewstep/model/nn"
)

// Extractor is an Inception network on a device.
type Extractor struct {
	Release inception.Release
	Content string // hash of its tensors

	e     *engine.Engine
	bind  engine.Bind
	batch int
}

const netInception = "metric_inception"

// OpenExtractor loads the weights file of an Inception network, or the release of that name (see [inception.Open] and
// [inception.Resolve]); programs work on batches of the
// given size.
func OpenExtractor(e *engine.Engine, path string, batch int) (*Extractor, error) {
	tensors, err := inception.StateDict(e.Backend)
	if err != nil {
		return nil, err
	}
	path, err = inception.Resolve(path)
	if err != nil {
		return nil, err
	}
	w, err := inception.Open(path, tensors)
	if err != nil {
		return nil, err
	}
	specs, err := inception.Parameters(e.Backend, w.Release.Last)
	if err != nil {
		return nil, err
	}
	params, err := e.LoadFunc(specs, func(s nn.Spec) ([]float32, error) { return inception.Fold(w.Tensors, s) }, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Extractor{Release: w.Release, Content: w.Content, e: e, bind: engine.Bind{netInception: params}, batch: max(batch, 1)}, nil
}

// Free gives the network's device memory back.
func (x *Extractor) Free() { x.bind[netInception].FreeAll() }

// Features are the final pooled features [2048] of prepared images [299·299·3].
func (x *Extractor) Features(prepared [][]float32) ([][]float32, error) {
	const side, width = inception.Side, 2048
	last := x.Release.Last
	f := engine.Function{Key: "metric_inception/" + string(last), Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		out := r.Run(inception.Network(netInception, last), in...)
		return out[len(out)-1:]
	}}
	out := make([][]float32, 0, len(prepared))
	for start := 0; start < len(prepared); start += x.batch {
		batch := prepared[start:min(start+x.batch, len(prepared))]
		flat := make([]float32, x.batch*side*side*3)
		for i, v := range batch {
			copy(flat[i*side*side*3:(i+1)*side*side*3], v)
		}
		a, err := x.e.Upload(flat, x.batch, side, side, 3)
		if err != nil {
			return nil, err
		}
		res, err := call(x.e, f, x.bind, a)
		if err != nil {
			return nil, fmt.Errorf("Inception features: %w", err)
		}
		for i := range batch {
			out = append(out, res[0][i*width:(i+1)*width:(i+1)*width])
		}
	}
	return out, nil
}
