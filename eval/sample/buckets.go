package sample

import (
	"slices"

	"fewstep/model/pipeline"
)

// buckets are the sizes that SDXL was trained on, by their shorter and longer side, about a million pixels each
// ("SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", appendix I).
var buckets = []pipeline.Size{
	{Width: 512, Height: 2048}, {Width: 512, Height: 1984}, {Width: 512, Height: 1920}, {Width: 512, Height: 1856},
	{Width: 576, Height: 1792}, {Width: 576, Height: 1728}, {Width: 576, Height: 1664}, {Width: 640, Height: 1600},
	{Width: 640, Height: 1536}, {Width: 704, Height: 1472}, {Width: 704, Height: 1408}, {Width: 704, Height: 1344},
	{Width: 768, Height: 1344}, {Width: 768, Height: 1280}, {Width: 832, Height: 1216}, {Width: 832, Height: 1152},
	{Width: 896, Height: 1152}, {Width: 896, Height: 1088}, {Width: 960, Height: 1088}, {Width: 960, Height: 1024},
	{Width: 1024, Height: 1024},
}

// TrainedOn says whether models of this native size were trained on pictures of size s: SDXL's 1024² on its buckets,
// others on their native size alone.
func TrainedOn(native, s pipeline.Size) bool {
	if native != pipeline.Square(1024) {
		return s == native
	}
	return slices.Contains(buckets, pipeline.Size{Width: min(s.Width, s.Height), Height: max(s.Width, s.Height)})
}
