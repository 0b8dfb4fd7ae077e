// Package bucket sorts images into a few shapes of about the same area, so that a batch is of one shape and little of an
// image is cut off (aspect ratio bucketing), and says what SDXL's UNet is told of an image's size and crop.
package bucket

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Size is a width and a height in pixels.
type Size struct {
	Width  int `yaml:"width" json:"width"`
	Height int `yaml:"height" json:"height"`
}

func (s Size) String() string { return fmt.Sprintf("%d×%d", s.Width, s.Height) }

func (s Size) ratio() float64 { return float64(s.Width) / float64(s.Height) }

// Resolutions are the shapes whose sides are multiples of step between least and most, each as high as area allows: what
// kohya's sd-scripts make of a resolution (make_bucket_resolutions with area = width·height). They are sorted by width,
// then height.
func Resolutions(area, least, most, step int) ([]Size, error) {
	if step < 1 || least < step || most < least || area < step*step {
		return nil, fmt.Errorf("bucket: area %d, sides of %d to %d in steps of %d; want step ≤ least ≤ most, and an area of a step squared at least", area, least, most, step)
	}
	side := int(math.Sqrt(float64(area))) / step * step
	out := []Size{{side, side}}
	for width := least; width <= most; width += step {
		if height := min(most, area/width/step*step); height >= least {
			out = append(out, Size{width, height}, Size{height, width})
		}
	}
	slices.SortFunc(out, func(a, b Size) int { return cmp.Or(a.Width-b.Width, a.Height-b.Height) })
	return slices.Compact(out), nil
}

// SDXL is the list of shapes that SDXL was trained on (Podell et al., arXiv 2307.01952, appendix I), by width.
var SDXL = []Size{
	{512, 2048}, {512, 1984}, {512, 1920}, {512, 1856}, {576, 1792}, {576, 1728}, {576, 1664}, {640, 1600}, {640, 1536},
	{704, 1472}, {704, 1408}, {704, 1344}, {768, 1344}, {768, 1280}, {832, 1216}, {832, 1152}, {896, 1152}, {896, 1088},
	{960, 1088}, {960, 1024}, {1024, 1024}, {1024, 960}, {1088, 960}, {1088, 896}, {1152, 896}, {1152, 832}, {1216, 832},
	{1280, 768}, {1344, 768}, {1408, 704}, {1472, 704}, {1536, 640}, {1600, 640}, {1664, 576}, {1728, 576}, {1792, 576},
	{1856, 512}, {1920, 512}, {1984, 512}, {2048, 512},
}

// Choose gives the number of the shape that an image is trained in: its own if the list has it, else the one whose ratio of
// width to height is nearest, the first of equals, as kohya's select_bucket does.
func Choose(image Size, shapes []Size) int {
	if i := slices.Index(shapes, image); i >= 0 {
		return i
	}
	best, distance := 0, math.Inf(1)
	for i, s := range shapes {
		if d := math.Abs(s.ratio() - image.ratio()); d < distance {
			best, distance = i, d
		}
	}
	return best
}

// Fit says how an image becomes a shape: it is resized so that it covers the shape, and the middle is cut out.
type Fit struct {
	Original Size    // the image
	Resized  Size    // after resizing
	Left     int     // of the crop, in the resized image
	Top      int     //
	Target   Size    // the shape
	Scale    float64 // of the resizing; above 1 the image is enlarged
}

// FitTo computes the fit of an image and a shape. Resized sides are rounded to nearest.
func FitTo(image, shape Size) (Fit, error) {
	if image.Width < 1 || image.Height < 1 || shape.Width < 1 || shape.Height < 1 {
		return Fit{}, fmt.Errorf("bucket: an image of %v for the shape %v", image, shape)
	}
	scale := float64(shape.Width) / float64(image.Width)
	if image.ratio() > shape.ratio() {
		scale = float64(shape.Height) / float64(image.Height)
	}
	f := Fit{Original: image, Target: shape, Scale: scale}
	f.Resized = Size{max(shape.Width, int(float64(image.Width)*scale+0.5)), max(shape.Height, int(float64(image.Height)*scale+0.5))}
	f.Left, f.Top = (f.Resized.Width-shape.Width)/2, (f.Resized.Height-shape.Height)/2
	return f, nil
}

// Enlarges says whether the image would be made larger, which makes training images blurred: such an image is to be left out
// or counted, never enlarged in silence.
func (f Fit) Enlarges() bool { return f.Scale > 1 }

// TimeIDs are SDXL's micro-conditions of the sample: height and width of the original, top and left of the crop, height
// and width of the target.
func (f Fit) TimeIDs() [6]float32 {
	return [6]float32{float32(f.Original.Height), float32(f.Original.Width), float32(f.Top), float32(f.Left), float32(f.Target.Height), float32(f.Target.Width)}
}
