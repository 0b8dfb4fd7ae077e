package metric

import (
	"fmt"
	"math"

	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// least is added to a deviation before its logarithm: smaller ones say nothing.
const least = 0.05

// View is what one look at an image gives.
type View struct {
	Embedding []float64 // projected, of unit length [P]
	Texture   []float64 // logarithms of the channels' deviations over the first hidden state's patch tokens, less their mean [D]
}

// Features of one image: of all of it, and of the central quarter of its area at twice the size.
type Features struct {
	Whole, Patch View
}

// Features looks at images [S·S·3] in [−1, 1], S being resolution. Values are first rounded to 8 bits, as a file
// would hold them.
func (n *Network) Features(images [][]float32, resolution int) ([]Features, error) {
	size := n.vision.ImageSize
	if resolution%2 != 0 || !fits(resolution, size) || !fits(resolution/2, size) {
		return nil, fmt.Errorf("images of %d pixels cannot be measured by an image encoder for %d: one must be a multiple of the other", resolution, size)
	}
	f := engine.Function{Key: fmt.Sprintf("metric_image/%s/%g", n.vision.Vision("").Kind, least), Body: n.look}
	out := make([]Features, 0, len(images))
	for start := 0; start < len(images); start += n.batch {
		batch := images[start:min(start+n.batch, len(images))]
		flat := make([]float32, n.batch*resolution*resolution*3)
		for i, v := range batch {
			if len(v) != resolution*resolution*3 {
				return nil, fmt.Errorf("image %d has %d values, %d×%d×3 are wanted", start+i, len(v), resolution, resolution)
			}
			for k, x := range v {
				if x != x {
					return nil, fmt.Errorf("image %d holds a value that is not a number", start+i)
				}
				flat[i*len(v)+k] = eightBit(x)
			}
		}
		a, err := n.e.Upload(flat, n.batch, resolution, resolution, 3)
		if err != nil {
			return nil, err
		}
		res, err := n.call(f, a)
		if err != nil {
			return nil, fmt.Errorf("features of images: %w", err)
		}
		for i := range batch {
			out = append(out, Features{Whole: n.view(res, i), Patch: n.view(res, n.batch+i)})
		}
	}
	return out, nil
}

func eightBit(x float32) float32 {
	return float32(math.RoundToEven(255*min(max(float64(x)/2+0.5, 0), 1))/127.5 - 1)
}

// view picks row i of the outputs of look.
func (n *Network) view(res [][]float32, i int) View {
	d, m := n.vision.ProjectionDim, n.vision.HiddenSize
	v := View{Embedding: unit(res[0][i*d : (i+1)*d]), Texture: make([]float64, m)}
	mean := 0.0
	for k, x := range res[1][i*m : (i+1)*m] {
		v.Texture[k] = math.Log(float64(x) + least)
		mean += v.Texture[k] / float64(m)
	}
	for k := range v.Texture {
		v.Texture[k] -= mean
	}
	return v
}

// look maps images [B, S, S, 3] to embeddings [2B, P] and deviations [2B, D]: whole images first, then patches.
func (n *Network) look(r nn.Runner, in []nn.Value) []nn.Value {
	size := n.vision.ImageSize
	both := nn.One(r, nn.Block{Kind: fmt.Sprintf("metric_views(%d)", size), Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		x := in[0]
		side := x.Shape().Dim(1)
		centre := graph.AxisRange(side/4, side/4+side/2)
		patch := graph.Slice(x, graph.AxisRange(), centre, centre)
		return []*graph.Node{graph.Concatenate([]*graph.Node{fit(x, size), fit(patch, size)}, 0)}
	}}, in[0])
	states := r.Run(n.vision.Vision(netVision), both)
	deviations := nn.One(r, nn.Block{Kind: "metric_deviations", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		h := graph.Slice(in[0], graph.AxisRange(), graph.AxisRange(1)) // without the class token
		centre := graph.ReduceAndKeep(h, graph.ReduceMean, 1)
		return []*graph.Node{graph.Sqrt(graph.ReduceMean(graph.Square(graph.Sub(h, graph.BroadcastToShape(centre, h.Shape()))), 1))}
	}}, states[1])
	return []nn.Value{states[0], deviations}
}

func fits(from, to int) bool { return from > 0 && (from%to == 0 || to%from == 0) }

// fit brings images [B, S, S, C] to another size, repeating pixels or averaging them.
func fit(x *graph.Node, size int) *graph.Node {
	d := x.Shape().Dimensions
	if side := d[1]; side > size {
		return nn.AvgPool(x, side/size)
	}
	k := size / d[1]
	x = graph.BroadcastToDims(graph.Reshape(x, d[0], d[1], 1, d[2], 1, d[3]), d[0], d[1], k, d[2], k, d[3])
	return graph.Reshape(x, d[0], size, size, d[3])
}
