package sample

import (
	"fmt"
	"math"
	"slices"

	"fewstep/model/family"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
)

// noiseTensor is the one tensor of a noise file: [N, C, h, w] of deviation 1, what diffusers' pipelines take as latents.
const noiseTensor = "latents"

// ReadNoise reads the starting noise of n pictures from a safetensors file, as [h·w·C] each.
func ReadNoise(path string, p *pipeline.Pipeline, size pipeline.Size, n int) ([][]float32, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !slices.Contains(f.Names(), noiseTensor) {
		return nil, fmt.Errorf("%s: there is no tensor %s", path, noiseTensor)
	}
	t, err := f.Tensor(noiseTensor)
	if err != nil {
		return nil, err
	}
	d := p.UNetInputs(n, size)[family.Sample].Dimensions
	if want := []int{n, d[3], d[1], d[2]}; !slices.Equal(t.Shape, want) {
		return nil, fmt.Errorf("%s: tensor %s has the shape %v, %d pictures of %v need %v", path, noiseTensor, t.Shape, n, size, want)
	}
	flat, err := t.Float32()
	if err != nil {
		return nil, err
	}
	for _, v := range flat {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("%s: tensor %s has values that are not finite", path, noiseTensor)
		}
	}
	out := make([][]float32, n)
	area := d[1] * d[2]
	for i := range out {
		out[i] = make([]float32, area*d[3])
		for c := range d[3] {
			for k := range area {
				out[i][k*d[3]+c] = flat[(i*d[3]+c)*area+k]
			}
		}
	}
	return out, nil
}

// WriteNoise writes what ReadNoise reads.
func WriteNoise(path string, p *pipeline.Pipeline, size pipeline.Size, noise [][]float32) error {
	d := p.UNetInputs(len(noise), size)[family.Sample].Dimensions
	area := d[1] * d[2]
	flat := make([]float32, 0, d[0]*area*d[3])
	for _, v := range noise {
		for c := range d[3] {
			for k := range area {
				flat = append(flat, v[k*d[3]+c])
			}
		}
	}
	t := weights.FromFloat32(noiseTensor, []int{d[0], d[3], d[1], d[2]}, flat, weights.F32)
	return weights.Write(path, []weights.Tensor{t}, nil)
}
