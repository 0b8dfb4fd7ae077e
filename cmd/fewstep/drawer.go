package main

import (
	"context"

	"github.com/gomlx/compute/dtypes"

	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/eval"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
)

// computeUsage describes the values of --compute.
const computeUsage = "f32, bf16 (norms and softmax stay f32), or auto: bf16 for large models on GPUs, else f32"

func checkCompute(name string) error {
	if _, ok := method.ComputeTypes[name]; !ok && name != "auto" {
		return usageErrorf("--compute is %q; it must be auto, f32 or bf16", name)
	}
	return nil
}

// largeUNet is the number of weights from which a UNet is walked block by block: one program for all of it would take
// long to compile and much memory beside the weights. SDXL's has 2.6 billion, the mini's 9 million.
const largeUNet = 500_000_000

// drawer is an engine for drawing by the largest of the given UNets, in the arithmetic that --compute names. Weights are
// kept as they are computed with: in bf16 they take half the memory, and the pictures are the same.
func drawer(rt *xla.Runtime, compute string, unets ...[]nn.Spec) *engine.Engine {
	large := false
	for _, specs := range unets {
		n := 0
		for _, s := range specs {
			n += s.Size()
		}
		large = large || n >= largeUNet
	}
	dtype, told := method.ComputeTypes[compute]
	if !told {
		dtype = dtypes.Float32
		if large && rt.Kind == xla.CUDA {
			dtype = dtypes.BFloat16
		}
	}
	level := nn.Network
	if large {
		level = nn.Layer
	}
	e := engine.New(rt.Backend, dtype, level)
	e.Frozen = dtype
	return e
}

// drawersOf are drawers, on so many devices, for all models of an evaluation, which is long enough for programs of their own
// everywhere.
func drawersOf(ctx context.Context, rt *xla.Runtime, devices int, compute string, s *eval.Spec) ([]*engine.Engine, error) {
	pipelines := map[*pipeline.Pipeline]bool{s.Pipeline: true}
	for _, e := range s.Entries {
		if e.Pipeline != nil {
			pipelines[e.Pipeline] = true
		}
	}
	var unets [][]nn.Spec
	for p := range pipelines {
		specs, err := p.UNetSpecs(rt.Backend, nil)
		if err != nil {
			return nil, err
		}
		unets = append(unets, specs)
	}
	e := drawer(rt, compute, unets...)
	e.Sites = e.Granularity == nn.Layer && rt.Sites()
	engines, err := e.On(devices)
	for _, e := range engines {
		e.Context = ctx
	}
	return engines, err
}
