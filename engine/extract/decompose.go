package extract

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"

	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
	"gonum.org/v1/gonum/mat"
)

// factors are up [out, rank] and down [rank, in] of a truncated decomposition up · down, and the squared norm of what
// it misses.
type factors struct {
	up, down []float32
	rank     int
	lost     float64
}

// Programs. Each gives, beside its product, the Gram matrix of the product's columns (of rows, for project), from which
// the host makes the next small matrix.
var (
	multiply  = program("extract/multiply", func(in []*graph.Node) []*graph.Node { return gram(graph.Dot(in[0], in[1]).MatMul()) })
	transpose = program("extract/transpose", func(in []*graph.Node) []*graph.Node {
		return gram(graph.Dot(graph.Transpose(in[0], 0, 1), in[1]).MatMul())
	})
	project = program("extract/project", func(in []*graph.Node) []*graph.Node {
		b := graph.Dot(graph.Transpose(in[1], 0, 1), in[0]).MatMul()
		return []*graph.Node{b, graph.Dot(b, graph.Transpose(b, 0, 1)).MatMul()}
	})
	finish = program("extract/finish", func(in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.Dot(in[0], in[2]).MatMul(), graph.Dot(in[3], in[1]).MatMul()}
	})
)

func gram(y *graph.Node) []*graph.Node {
	return []*graph.Node{y, graph.Dot(graph.Transpose(y, 0, 1), y).MatMul()}
}

func program(key string, build func(in []*graph.Node) []*graph.Node) engine.Function {
	return engine.Function{Key: key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(nn.Block{Kind: key, Level: nn.Network, Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node { return build(in) }}, in...)
	}}
}

// decompose finds the best approximation of d [out, in] of rank opt.Rank. name seeds the random directions.
func decompose(e *engine.Engine, name string, d []float32, out, in int, opt Options) (f factors, err error) {
	rank := min(opt.Rank, out, in)
	width := min(rank+opt.Oversample, out, in)

	// The Gram matrices square the values: keep them near one.
	scale := 0.0
	for _, x := range d {
		scale = max(scale, math.Abs(float64(x)))
	}
	scaled := make([]float32, len(d))
	for i, x := range d {
		scaled[i] = float32(float64(x) / scale)
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(h.Sum64(), 0))
	start := make([]float32, in*width)
	for i := range start {
		start[i] = float32(rng.NormFloat64())
	}

	s := &steps{e: e}
	defer s.free()
	matrix := s.upload(scaled, out, in)
	q, g := s.run(multiply, matrix, s.upload(start, in, width))
	for range opt.Iterations {
		q, _ = s.orthonormal(q, g)
		q, g = s.run(transpose, matrix, q)
		q, _ = s.orthonormal(q, g)
		q, g = s.run(multiply, matrix, q)
	}
	q, _ = s.orthonormal(s.orthonormal(q, g)) // twice, for what f32 loses
	b, g := s.run(project, matrix, q)
	if s.err != nil {
		return f, s.err
	}
	values, vectors, err := eigen(s.floats(g), width)
	if err = errors.Join(err, s.err); err != nil {
		return f, err
	}
	// b = V Σ Wᵀ with bbᵀ = V Σ² Vᵀ: up = q V √Σ and down = √Σ⁻¹ Vᵀ b, whose rows have the norm √Σ.
	turnUp, turnDown := make([]float32, width*rank), make([]float32, rank*width)
	kept := 0.0
	for k := range rank {
		value := max(values[k], 0)
		kept += value
		root := math.Sqrt(math.Sqrt(value))
		if value <= values[0]*noise {
			continue // nothing there: the direction stays zero
		}
		for i := range width {
			turnUp[i*rank+k] = float32(vectors[i*width+k] * root)
			turnDown[k*width+i] = float32(vectors[i*width+k] / root)
		}
	}
	up, down := s.run(finish, q, b, s.upload(turnUp, width, rank), s.upload(turnDown, rank, width))
	f = factors{up: s.floats(up), down: s.floats(down), rank: rank}
	half := math.Sqrt(scale)
	for _, v := range [][]float32{f.up, f.down} {
		for i := range v {
			v[i] = float32(float64(v[i]) * half)
		}
	}
	f.lost = max(squares(d)-kept*scale*scale, 0)
	return f, s.err
}

// noise is the share of the largest eigenvalue of a Gram matrix in f32 below which another is nothing.
const noise = 1e-12

// steps runs programs one after the other until one fails.
type steps struct {
	e   *engine.Engine
	own []*engine.Array
	err error
}

func (s *steps) free() { engine.Free(s.own...) }

func (s *steps) upload(v []float32, dims ...int) *engine.Array {
	if s.err != nil {
		return nil
	}
	a, err := s.e.Upload(v, dims...)
	s.err = err
	s.own = append(s.own, a)
	return a
}

func (s *steps) run(f engine.Function, in ...*engine.Array) (first, second *engine.Array) {
	if s.err != nil {
		return nil, nil
	}
	out, err := s.e.Call(f, nil, in...)
	if err != nil {
		s.err = err
		return nil, nil
	}
	s.own = append(s.own, out...)
	return out[0], out[1]
}

func (s *steps) floats(a *engine.Array) []float32 {
	if s.err != nil {
		return nil
	}
	v, err := s.e.Floats(a)
	s.err = err
	return v
}

// orthonormal makes the columns of y orthonormal, given their Gram matrix: y V Λ^−½, and gives their Gram matrix.
// Directions that are rounding become zero columns.
func (s *steps) orthonormal(y, g *engine.Array) (turned, gram *engine.Array) {
	values := s.floats(g)
	if s.err != nil {
		return nil, nil
	}
	width := g.Shape().Dimensions[0]
	eigenvalues, vectors, err := eigen(values, width)
	if err != nil {
		s.err = err
		return nil, nil
	}
	turn := make([]float32, width*width)
	for k := range width {
		if eigenvalues[k] <= eigenvalues[0]*noise {
			continue
		}
		for i := range width {
			turn[i*width+k] = float32(vectors[i*width+k] / math.Sqrt(eigenvalues[k]))
		}
	}
	return s.run(multiply, y, s.upload(turn, width, width))
}

// eigen gives the eigenvalues of a symmetric matrix, largest first, and the eigenvectors as the columns of [n, n].
func eigen(v []float32, n int) (values, vectors []float64, err error) {
	sym := mat.NewSymDense(n, nil)
	for i := range n {
		for j := i; j < n; j++ {
			x := (float64(v[i*n+j]) + float64(v[j*n+i])) / 2
			if x-x != 0 {
				return nil, nil, errors.New("the difference is too large for f32")
			}
			sym.SetSym(i, j, x)
		}
	}
	var es mat.EigenSym
	if !es.Factorize(sym, true) {
		return nil, nil, fmt.Errorf("the eigenvalues of a %d×%d matrix were not found", n, n)
	}
	ascending := es.Values(nil)
	var m mat.Dense
	es.VectorsTo(&m)
	values, vectors = make([]float64, n), make([]float64, n*n)
	for k := range n {
		values[k] = ascending[n-1-k]
		for i := range n {
			vectors[i*n+k] = m.At(i, n-1-k)
		}
	}
	return values, vectors, nil
}
