package pipeline

import (
	"fmt"

	"fewstep/model/family"

	"github.com/gomlx/compute/shapes"
)

// Size is a picture's width and height in pixels.
type Size struct{ Width, Height int }

// Square is a size of equal sides.
func Square(side int) Size { return Size{side, side} }

// String is "width×height".
func (s Size) String() string { return fmt.Sprintf("%d×%d", s.Width, s.Height) }

// Native is the square size that the UNet was made for.
func (p *Pipeline) Native() Size { return Square(p.UNet.SampleSize * p.Factor()) }

// Factor is the VAE's down-scaling: image side / latent side.
func (p *Pipeline) Factor() int { return p.VAE.Factor() }

// Multiple is what both sides of a picture must be multiples of: the VAE's factor times the UNet's.
func (p *Pipeline) Multiple() int { return p.Factor() << (p.UNet.Levels() - 1) }

// CheckSize says why a picture of this size cannot be made.
func (p *Pipeline) CheckSize(s Size) error {
	for _, side := range []struct {
		name   string
		pixels int
	}{{"width", s.Width}, {"height", s.Height}} {
		if m := p.Multiple(); side.pixels < m || side.pixels%m != 0 {
			return fmt.Errorf("%s %d is not a multiple of %d", side.name, side.pixels, m)
		}
	}
	return nil
}

// UNetInputs are the shapes of the UNet's inputs at a batch and a picture size; see [family.Denoiser].
func (p *Pipeline) UNetInputs(batch int, size Size) []shapes.Shape {
	return family.Inputs(p.UNet, batch, size.Height/p.Factor(), size.Width/p.Factor(), p.Tokens())
}

// Conditions are what the UNet is told about a sample, in the order of its inputs.
func (p *Pipeline) Conditions() []family.Condition { return p.UNet.Conditions(p.Tokens()) }

// TimeIDs are the micro-conditions of an uncropped picture of its own size.
func TimeIDs(size Size) []float32 { return MicroConditions{Original: size, Target: size}.TimeIDs() }

// MicroConditions are what SDXL's family is told about a picture beside its text: the size of the original that it was
// made from, the corner of the crop, and the size it was scaled to; all in pixels.
type MicroConditions struct {
	Original          Size
	CropTop, CropLeft int
	Target            Size
}

// TimeIDs are the conditions in the order of the condition [family.Sizes].
func (m MicroConditions) TimeIDs() []float32 {
	return []float32{float32(m.Original.Height), float32(m.Original.Width), float32(m.CropTop), float32(m.CropLeft),
		float32(m.Target.Height), float32(m.Target.Width)}
}
