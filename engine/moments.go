package engine

import (
	"fmt"
	"hash/fnv"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// Moments in bf16.
//
// With Adam.Moments = BFloat16 both moments are kept in half the memory. An update reads them, computes in f32 and rounds
// the results stochastically: to one of the two neighbouring bf16 numbers, the nearer one more often, so that what is
// kept is right on average. (Rounded to nearest, a second moment with β2 = 0.999 would stand still: its steps of a
// thousandth are below half of bf16's spacing, a two hundred and fifty-sixth.) The weights, and an average of them, stay f32.
//
// The random bits are counted, not drawn: they follow from (Seed, the number of updates, the parameter's name, the
// element), so that nothing random is saved and a continued run goes on with the same bits.

// momentType is the dtype in which moments are kept.
func (a Adam) momentType() dtypes.DType {
	if a.Moments == dtypes.InvalidDType {
		return dtypes.Float32
	}
	return a.Moments
}

// rounds says whether updates round stochastically.
func (a Adam) rounds() bool { return a.momentType() == dtypes.BFloat16 }

// stateShapes are the shapes of the state of parameters, in the order of Optimizer.ordered.
func (a Adam) stateShapes(params []shapes.Shape) (all []shapes.Shape) {
	for _, l := range a.lists() {
		for _, p := range params {
			all = append(all, shapes.Make(l.dtype, p.Dimensions...))
		}
	}
	return all
}

// draw are two numbers below 2²⁴, exact in f32, that stand for an update in the random bits.
func (a Adam) draw(step int64) (float32, float32) {
	x := a.Seed*0x9e3779b97f4a7c15 + uint64(step)
	for range 2 { // splitmix64's finalizer
		x += 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
	}
	return float32(x & (1<<24 - 1)), float32(x >> 40)
}

// numbers is what an update takes that rounds: an array int32 [n] with a number for each of the n parameters of these
// indices, by which the update draws the parameter's random bits. The number is a hash of the parameter's name. Other updates
// have no such argument.
func (e *Engine) numbers(o *Optimizer, indices []int) ([]*Array, error) {
	if !o.rounds() {
		return nil, nil
	}
	key := fmt.Sprint(indices)
	if o.numbered[key] == nil {
		v := make([]int32, len(indices))
		for i, k := range indices {
			h := fnv.New32a()
			h.Write([]byte(o.names[k]))
			v[i] = int32(h.Sum32())
		}
		a, err := e.Upload(v, len(v))
		if err != nil {
			return nil, err
		}
		if o.numbered == nil {
			o.numbered = map[string]*Array{}
		}
		o.numbered[key] = a
	}
	return []*Array{o.numbered[key]}, nil
}

// all are the indices of all trained parameters.
func (o *Optimizer) all() []int {
	out := make([]int, len(o.names))
	for i := range out {
		out[i] = i
	}
	return out
}

// randomBits are 32 random bits for each element of a shape: a hash of the element's index under two keys, made of the
// update's draw and the parameter's number.
func randomBits(shape shapes.Shape, draw [2]*graph.Node, number *graph.Node) *graph.Node {
	g := number.Graph()
	whole := func(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtypes.Uint32) }
	first := mixed(graph.BitwiseXor(mixed(graph.BitwiseXor(whole(number), whole(draw[0]))), whole(draw[1])))
	second := mixed(graph.Add(first, word(g, 0x9e3779b9)))
	index := graph.Iota(g, shapes.Make(dtypes.Uint32, shape.Size()), 0)
	spread := func(x *graph.Node) *graph.Node { return graph.BroadcastToDims(x, shape.Size()) }
	return graph.Reshape(mixed(graph.Add(mixed(graph.BitwiseXor(index, spread(first))), spread(second))), shape.Dimensions...)
}

func word(g *graph.Graph, v uint32) *graph.Node { return graph.Scalar(g, dtypes.Uint32, v) }

// mixed is a bijection of 32-bit words in which every bit of the input moves every bit of the output: two rounds of
// multiplying and folding, with the constants of Wellons' "lowbias32".
func mixed(x *graph.Node) *graph.Node {
	fold := func(x *graph.Node, by uint32) *graph.Node {
		return graph.BitwiseXor(x, graph.BitwiseShiftRightLogicalScalar(x, by))
	}
	g := x.Graph()
	times := func(x *graph.Node, by uint32) *graph.Node {
		return graph.Mul(x, graph.BroadcastToDims(word(g, by), x.Shape().Dimensions...))
	}
	return fold(times(fold(times(fold(x, 16), 0x7feb352d), 15), 0x846ca68b), 16)
}

// rounded is f32 x in bf16: up in magnitude with the probability of the part that is cut off, by 16 random bits.
// Infinities and NaN are not treated apart: an update with such a gradient is dropped.
func rounded(x, bits16 *graph.Node) *graph.Node {
	sum := graph.Add(graph.Bitcast(x, dtypes.Uint32), bits16)
	cut := graph.BitwiseAnd(sum, graph.BroadcastToDims(word(x.Graph(), 0xffff0000), x.Shape().Dimensions...))
	return graph.ConvertDType(graph.Bitcast(cut, dtypes.Float32), dtypes.BFloat16)
}

// halves are the two 16-bit halves of random bits.
func halves(bits *graph.Node) (high, low *graph.Node) {
	mask := graph.BroadcastToDims(word(bits.Graph(), 0xffff), bits.Shape().Dimensions...)
	return graph.BitwiseShiftRightLogicalScalar(bits, uint32(16)), graph.BitwiseAnd(bits, mask)
}
