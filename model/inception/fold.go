package inception

import (
	"fmt"
	"math"
	"strings"

	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// What the network takes is made of the state dict once, when it is loaded: batch norms go into the weights, kernels lie
// as convolutions of [B, H, W, C] read them, and 1×1 convolutions of the same image are one matrix.

// Parameters lists the parameters of [Network].
func Parameters(b compute.Backend, last LastPool) ([]nn.Spec, error) {
	return nn.Trace(b, Network("", last), shapes.Make(dtypes.Float32, 1, Side, Side, 3))
}

// StateDict lists the tensors of a file, which [Fold] makes the network's parameters of.
func StateDict(b compute.Backend) ([]nn.Spec, error) {
	specs, err := Parameters(b, Max)
	if err != nil {
		return nil, err
	}
	var out []nn.Spec
	for _, s := range specs {
		convolutions, kind := parts(s)
		if kind != "weight" {
			continue
		}
		k, in := kernel{1, 1}, s.Dims[0]
		if len(s.Dims) == 4 {
			k, in = kernel{s.Dims[0], s.Dims[1]}, s.Dims[2]
		}
		for _, c := range convolutions {
			norm := []int{c.out}
			out = append(out, nn.Spec{Name: c.name + ".conv.weight", Dims: []int{c.out, in, k[0], k[1]}, Init: nn.FanIn},
				nn.Spec{Name: c.name + ".bn.weight", Dims: norm, Init: nn.Ones}, nn.Spec{Name: c.name + ".bn.bias", Dims: norm},
				nn.Spec{Name: c.name + ".bn.running_mean", Dims: norm}, nn.Spec{Name: c.name + ".bn.running_var", Dims: norm, Init: nn.Ones})
		}
	}
	return out, nil
}

// Fold makes a parameter of the network of the tensors of a state dict.
func Fold(stateDict map[string][]float32, s nn.Spec) ([]float32, error) {
	out := make([]float32, s.Size())
	convolutions, kind := parts(s)
	width, at := s.Dims[len(s.Dims)-1], 0
	for _, c := range convolutions {
		tensors := map[string]int{"bn.weight": c.out, "bn.bias": c.out, "bn.running_mean": c.out, "bn.running_var": c.out}
		if kind == "weight" {
			tensors["conv.weight"] = s.Size() / width * c.out
		}
		for name, size := range tensors {
			if n := len(stateDict[c.name+"."+name]); n != size {
				return nil, fmt.Errorf("tensor %q has %d values, %d are wanted", c.name+"."+name, n, size)
			}
		}
		of := func(name string, o int) float64 { return float64(stateDict[c.name+"."+name][o]) }
		w, each := stateDict[c.name+".conv.weight"], s.Size()/width
		area := 1 // of the window
		for _, d := range s.Dims[:max(0, len(s.Dims)-2)] {
			area *= d
		}
		for o := range c.out {
			scale := of("bn.weight", o) / math.Sqrt(of("bn.running_var", o)+normEps)
			if kind == "bias" {
				out[at+o] = float32(of("bn.bias", o) - of("bn.running_mean", o)*scale)
				continue
			}
			for i, v := range w[o*each : (o+1)*each] { // [in, window] becomes [window, in]
				out[(i%area*(each/area)+i/area)*width+at+o] = float32(float64(v) * scale)
			}
		}
		at += c.out
	}
	return out, nil
}

// joined is the name of what belongs to several convolutions: "a[64]+b[48]".
func joined(branches []branch) string {
	var names []string
	for _, b := range branches {
		names = append(names, fmt.Sprintf("%s[%d]", b.name, b.out))
	}
	return strings.Join(names, "+")
}

// parts are the convolutions that a parameter belongs to, by their names in the state dict, and what it is of them.
func parts(s nn.Spec) (convolutions []branch, kind string) {
	dot := strings.LastIndexByte(s.Name, '.')
	name, kind := s.Name[:dot], s.Name[dot+1:]
	if !strings.HasSuffix(name, "]") {
		return []branch{{name, s.Dims[len(s.Dims)-1]}}, kind
	}
	module := name[:strings.LastIndexByte(name, '.')+1]
	for _, part := range strings.Split(name[len(module):], "+") {
		bracket := strings.IndexByte(part, '[')
		b := branch{name: module + part[:bracket]}
		fmt.Sscanf(part[bracket:], "[%d]", &b.out)
		convolutions = append(convolutions, b)
	}
	return convolutions, kind
}
