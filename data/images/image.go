// Package images prepares images for feature networks exactly as the evaluations in Python do: PIL's resampling in
// 8 bits and in float32, PyTorch's and TensorFlow 1's bilinear interpolation, torchvision's crops, and JPEG files
// with libjpeg's smooth chroma.
package images

import (
	"fmt"
	"image"
	"image/color"
	"math"
)

// RGB is an image of 8 bits a channel, as files hold it: Pix is [Height·Width·3], row by row.
type RGB struct {
	Width, Height int
	Pix           []uint8
}

// Float is an image in grey levels from 0 to 255 that need not be whole: Pix is [Height·Width·3], row by row.
type Float struct {
	Width, Height int
	Pix           []float32
}

// New is a black image.
func New(width, height int) RGB {
	return RGB{width, height, make([]uint8, width*height*3)}
}

// FromUnit rounds an image [height·width·3] in [−1, 1] to 8 bits, to nearest and clamped. A value that is not a
// number is an error.
func FromUnit(values []float32, width, height int) (RGB, error) {
	m := New(width, height)
	if len(values) != len(m.Pix) {
		return RGB{}, fmt.Errorf("an image of %d×%d pixels has %d values, not %d", width, height, len(m.Pix), len(values))
	}
	for i, v := range values {
		if v != v {
			return RGB{}, fmt.Errorf("pixel (%d, %d) is not a number", i/3%width, i/3/width)
		}
		m.Pix[i] = uint8(math.RoundToEven(255 * min(max(float64(v)/2+0.5, 0), 1)))
	}
	return m, nil
}

// FromImage takes the colours of an image as Pillow does: laid on white where it is transparent, the upper 8 bits of 16,
// the chroma of a JPEG file interpolated.
func FromImage(src image.Image) RGB {
	b := src.Bounds()
	m := New(b.Dx(), b.Dy())
	row := func(y int) []uint8 { return m.Pix[y*m.Width*3 : (y+1)*m.Width*3] }
	switch src := src.(type) {
	case *image.YCbCr:
		fromYCbCr(m, src)
	case *image.Gray:
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				to[3*x], to[3*x+1], to[3*x+2] = from[x], from[x], from[x]
			}
		}
	case *image.Gray16:
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				to[3*x], to[3*x+1], to[3*x+2] = from[2*x], from[2*x], from[2*x]
			}
		}
	case *image.NRGBA:
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				copy(to[3*x:3*x+3], from[4*x:])
				onWhite(to[3*x:], from[4*x+3])
			}
		}
	case *image.NRGBA64:
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				to[3*x], to[3*x+1], to[3*x+2] = from[8*x], from[8*x+2], from[8*x+4]
				onWhite(to[3*x:], from[8*x+6])
			}
		}
	case *image.RGBA: // premultiplied
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				white := 255 - int32(from[4*x+3])
				to[3*x], to[3*x+1], to[3*x+2] = clip(int32(from[4*x])+white), clip(int32(from[4*x+1])+white), clip(int32(from[4*x+2])+white)
			}
		}
	case *image.RGBA64: // premultiplied
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				white := 255 - int32(from[8*x+6])
				to[3*x], to[3*x+1], to[3*x+2] = clip(int32(from[8*x])+white), clip(int32(from[8*x+2])+white), clip(int32(from[8*x+4])+white)
			}
		}
	case *image.CMYK:
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				light := 255 - int32(from[4*x+3])
				for c := range 3 {
					to[3*x+c] = clip(light - div255(int32(from[4*x+c])*light))
				}
			}
		}
	case *image.Paletted:
		colours := make([][3]uint8, len(src.Palette))
		for i, c := range src.Palette {
			n := color.NRGBAModel.Convert(c).(color.NRGBA)
			colours[i] = [3]uint8{n.R, n.G, n.B}
			onWhite(colours[i][:], n.A)
		}
		for y := range m.Height {
			from, to := src.Pix[src.PixOffset(b.Min.X, b.Min.Y+y):], row(y)
			for x := range m.Width {
				if int(from[x]) < len(colours) {
					copy(to[3*x:], colours[from[x]][:])
				}
			}
		}
	default:
		for y := range m.Height {
			to := row(y)
			for x := range m.Width {
				c := color.NRGBAModel.Convert(src.At(b.Min.X+x, b.Min.Y+y)).(color.NRGBA)
				to[3*x], to[3*x+1], to[3*x+2] = c.R, c.G, c.B
				onWhite(to[3*x:], c.A)
			}
		}
	}
	return m
}

// onWhite lays a colour of an opacity on white, as PIL's alpha_composite does.
func onWhite(c []uint8, alpha uint8) {
	if alpha == 255 {
		return
	}
	over := uint32(alpha) * 128
	under := uint32(255*128) - over
	for i := range 3 {
		v := uint32(c[i])*over + 255*under + 0x80<<7
		c[i] = uint8(((v>>8 + v) >> 8) >> 7)
	}
}

// div255 divides by 255, rounded to nearest.
func div255(v int32) int32 {
	v += 128
	return (v>>8 + v) >> 8
}

// Float is the image with the same values.
func (m RGB) Float() Float {
	out := Float{m.Width, m.Height, make([]float32, len(m.Pix))}
	for i, v := range m.Pix {
		out.Pix[i] = float32(v)
	}
	return out
}

// Check says what is wrong with an image that was put together by hand.
func (m RGB) Check() error {
	if m.Width <= 0 || m.Height <= 0 {
		return fmt.Errorf("an image of %d×%d pixels is empty", m.Width, m.Height)
	}
	if len(m.Pix) != m.Width*m.Height*3 {
		return fmt.Errorf("an image of %d×%d pixels has %d values, not %d", m.Width, m.Height, m.Width*m.Height*3, len(m.Pix))
	}
	return nil
}

// CenterCrop cuts the middle width×height pixels out, placed as torchvision's center_crop does (an odd margin is
// halved to the even number). The image must be that large.
func (m RGB) CenterCrop(width, height int) (RGB, error) {
	if width <= 0 || height <= 0 || width > m.Width || height > m.Height {
		return RGB{}, fmt.Errorf("%d×%d pixels cannot be cut out of an image of %d×%d", width, height, m.Width, m.Height)
	}
	return m.Crop(int(math.RoundToEven(float64(m.Width-width)/2)), int(math.RoundToEven(float64(m.Height-height)/2)), width, height)
}

// Crop cuts width×height pixels out, from a corner on.
func (m RGB) Crop(left, top, width, height int) (RGB, error) {
	if left < 0 || top < 0 || width <= 0 || height <= 0 || width > m.Width-left || height > m.Height-top {
		return RGB{}, fmt.Errorf("%d×%d pixels from (%d, %d) on cannot be cut out of an image of %d×%d", width, height, left, top, m.Width, m.Height)
	}
	out := New(width, height)
	for y := range height {
		copy(out.Pix[y*width*3:(y+1)*width*3], m.Pix[((top+y)*m.Width+left)*3:])
	}
	return out, nil
}

// CenterSquare is the largest square in the middle.
func (m RGB) CenterSquare() RGB {
	side := min(m.Width, m.Height)
	out, err := m.CenterCrop(side, side)
	if err != nil { // only an empty image has no square in it
		return m
	}
	return out
}

// Image is the same image for Go's encoders.
func (m RGB) Image() *image.NRGBA {
	out := image.NewNRGBA(image.Rect(0, 0, m.Width, m.Height))
	for i := range m.Width * m.Height {
		copy(out.Pix[4*i:], m.Pix[3*i:3*i+3])
		out.Pix[4*i+3] = 255
	}
	return out
}
