// Package extract makes a LoRA of the difference between two UNets of the same architecture.
//
// Of each layer's difference D, with a convolution's kernel flattened to [out, in·kh·kw], it keeps the best
// approximation of a given rank: the truncated singular value decomposition, found by the randomised range finder with
// power iterations (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1). The products with D run
// on the backend; what remains on the host is the eigendecomposition of matrices as small as the rank.
package extract

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"fewstep/engine"
	"fewstep/model/lora"
	"fewstep/model/weights"
)

// Options of UNets.
type Options struct {
	Rank       int                     // of each module; capped at the layer's smaller side
	Oversample int                     // further directions that are searched and then dropped; 0 = 16
	Iterations int                     // power iterations; 0 = 2
	Progress   func(done, total int64) // weights looked at; may be nil
}

// Result is what UNets found.
type Result struct {
	Modules   []lora.Module // alpha = rank, up and down of equal size
	Unchanged int           // layers without a difference, which get no module
	Error     float64       // of all layers' differences together: the norm of what the modules miss, relative
	LeftOut   []string      // tensors that differ and that no module can hold: norms, biases, the layers outside the blocks
}

// UNets extracts tuned − base, two UNets with diffusers' names. Layers outside the down, mid and up blocks get no module,
// as in training.
func UNets(ctx context.Context, e *engine.Engine, base, tuned weights.Source, opt Options) (*Result, error) {
	if opt.Rank < 1 {
		return nil, fmt.Errorf("rank %d: it must be at least 1", opt.Rank)
	}
	if opt.Oversample == 0 {
		opt.Oversample = 16
	}
	if opt.Iterations == 0 {
		opt.Iterations = 2
	}
	names := base.Names()
	if other := tuned.Names(); !slices.Equal(names, other) {
		return nil, fmt.Errorf("the two UNets are not of one architecture: %s", firstDifference(names, other))
	}
	var total, done int64
	for _, name := range names {
		a, err := base.Tensor(name)
		if err != nil {
			return nil, err
		}
		b, err := tuned.Tensor(name)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(a.Shape, b.Shape) {
			return nil, fmt.Errorf("the two UNets are not of one architecture: tensor %s has the shape %v in one and %v in the other", name, a.Shape, b.Shape)
		}
		total += int64(a.Elements())
	}
	r := &Result{}
	var all, missed float64 // squared
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, shape, err := difference(base, tuned, name)
		if err != nil {
			return nil, err
		}
		done += int64(len(d))
		norm := squares(d)
		path, isWeight := strings.CutSuffix(name, ".weight")
		switch {
		case math.IsNaN(norm) || math.IsInf(norm, 0):
			return nil, fmt.Errorf("tensor %s: the difference is too large to be a finite number", name)
		case isWeight && len(shape) > 1 && inBlocks(path) && norm == 0:
			r.Unchanged++
		case isWeight && len(shape) > 1 && inBlocks(path):
			m, lost, err := module(e, path, shape, d, opt)
			if err != nil {
				return nil, fmt.Errorf("module %s: %w", path, err)
			}
			r.Modules = append(r.Modules, m)
			all, missed = all+norm, missed+lost
		case norm != 0:
			r.LeftOut = append(r.LeftOut, name)
		}
		if opt.Progress != nil {
			opt.Progress(done, total)
		}
	}
	if len(r.Modules) == 0 {
		return nil, errors.New("the two UNets do not differ in any layer that a LoRA can adapt")
	}
	r.Error = math.Sqrt(missed / all)
	return r, nil
}

// inBlocks says whether a layer lies in a down, mid or up block: the ones that training adapts.
func inBlocks(path string) bool {
	return strings.HasPrefix(path, "down_blocks.") || strings.HasPrefix(path, "mid_block.") || strings.HasPrefix(path, "up_blocks.")
}

// difference is tuned − base in f32.
func difference(base, tuned weights.Source, name string) (d []float32, shape []int, err error) {
	a, err := base.Tensor(name)
	if err != nil {
		return nil, nil, err
	}
	b, err := tuned.Tensor(name)
	if err != nil {
		return nil, nil, err
	}
	from, err := a.Finite()
	if err != nil {
		return nil, nil, err
	}
	if d, err = b.Finite(); err != nil {
		return nil, nil, err
	}
	for i := range d {
		d[i] -= from[i]
	}
	return d, a.Shape, nil
}

func squares(v []float32) (sum float64) {
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return sum
}

func firstDifference(a, b []string) string {
	for _, pair := range []struct {
		have, want []string
		where      string
	}{{a, b, "the tuned one"}, {b, a, "the base"}} {
		for _, name := range pair.have {
			if _, ok := slices.BinarySearch(pair.want, name); !ok {
				return fmt.Sprintf("tensor %s is missing in %s", name, pair.where)
			}
		}
	}
	return "their tensors' names differ"
}

// module is the adapter of one layer, and the squared norm of what it misses.
func module(e *engine.Engine, path string, shape []int, d []float32, opt Options) (lora.Module, float64, error) {
	out := shape[0]
	in := len(d) / out
	f, err := decompose(e, path, d, out, in, opt)
	if err != nil {
		return lora.Module{}, 0, err
	}
	m := lora.Module{Path: path, Rank: f.rank, Alpha: float64(f.rank),
		Down: lora.Matrix{Shape: append([]int{f.rank}, shape[1:]...), Data: f.down},
		Up:   lora.Matrix{Shape: []int{out, f.rank}, Data: f.up}}
	if len(shape) == 4 {
		m.Up.Shape = append(m.Up.Shape, 1, 1)
	}
	return m, f.lost, m.Validate()
}
