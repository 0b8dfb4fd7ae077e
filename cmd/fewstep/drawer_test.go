package main

import (
	"testing"

	"github.com/gomlx/compute/dtypes"

	"fewstep/eval"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
)

// Large networks are walked block by block, on GPUs in bf16 unless f32 is asked for; small ones are one program in f32.
func TestDrawerByModel(t *testing.T) {
	small := []nn.Spec{{Name: "a", Dims: []int{1 << 10, 1 << 10}}, {Name: "b", Dims: []int{1 << 10}}}
	large := append(small, nn.Spec{Name: "c", Dims: []int{1 << 15, 1 << 15}})
	for _, want := range []struct {
		kind, compute string
		unets         [][]nn.Spec
		dtype         dtypes.DType
		level         nn.Level
	}{
		{xla.CUDA, "auto", [][]nn.Spec{large}, dtypes.BFloat16, nn.Layer},
		{xla.CUDA, "auto", [][]nn.Spec{small, large}, dtypes.BFloat16, nn.Layer},
		{xla.CUDA, "auto", [][]nn.Spec{small}, dtypes.Float32, nn.Network},
		{xla.CUDA, "f32", [][]nn.Spec{large}, dtypes.Float32, nn.Layer},
		{xla.CUDA, "bf16", [][]nn.Spec{small}, dtypes.BFloat16, nn.Network},
		{xla.CPU, "auto", [][]nn.Spec{large}, dtypes.Float32, nn.Layer},
		{xla.CPU, "bf16", [][]nn.Spec{large}, dtypes.BFloat16, nn.Layer},
		{xla.CPU, "auto", [][]nn.Spec{small}, dtypes.Float32, nn.Network},
	} {
		e := drawer(&xla.Runtime{Kind: want.kind}, want.compute, want.unets...)
		if e.Compute != want.dtype || e.FrozenDType() != want.dtype || e.Granularity != want.level || e.Sites {
			t.Errorf("%s, %s, %d networks: %s, weights in %s, level %v", want.kind, want.compute, len(want.unets), e.Compute, e.FrozenDType(), e.Granularity)
		}
	}
	p, err := pipeline.Open("../../assets/mini")
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	all, err := drawersOf(t.Context(), rt, 1, "auto", &eval.Spec{Pipeline: p, Entries: []eval.Entry{{}, {Pipeline: p}}})
	if err != nil || len(all) != 1 || all[0].Granularity != nn.Network || all[0].Compute != dtypes.Float32 {
		t.Errorf("the mini is drawn by %v, %v", all, err)
	}
}
