package data

import (
	"fmt"

	"fewstep/data/bucket"
	"fewstep/data/images"
	"fewstep/data/source"
)

// square cuts the largest centred square and resizes it to size × size with PIL's bicubic filter, antialiased, where the
// size differs.
func square(m images.RGB, size int) images.RGB {
	if m = m.CenterSquare(); m.Width != size {
		m = m.Resize(size, size, images.Bicubic)
	}
	return m
}

// fitted makes an image cover a shape with PIL's bicubic filter, and cuts out the middle. Of a square that is the same as
// cutting first, which is what square does.
func fitted(m images.RGB, shape bucket.Size) (images.RGB, bucket.Fit, error) {
	fit, err := bucket.FitTo(bucket.Size{Width: m.Width, Height: m.Height}, shape)
	if err != nil {
		return m, fit, err
	}
	if shape.Width == shape.Height {
		return square(m, shape.Width), fit, nil
	}
	if m.Width != fit.Resized.Width || m.Height != fit.Resized.Height {
		m = m.Resize(fit.Resized.Width, fit.Resized.Height, images.Bicubic)
	}
	m, err = m.Crop(fit.Left, fit.Top, shape.Width, shape.Height)
	return m, fit, err
}

// Fitted decodes an image file and makes it the shape that is chosen for its size: [height, width, 3] in [−1, 1].
func Fitted(content []byte, shape func(image bucket.Size) bucket.Size) (pixels []float32, fit bucket.Fit, err error) {
	err = images.With(content, func(m images.RGB) (err error) {
		m, fit, err = fitted(m, shape(bucket.Size{Width: m.Width, Height: m.Height}))
		pixels = scalePixels(m.Pix)
		return err
	})
	return pixels, fit, err
}

// Picture returns image i as a shape (an image that is not there or cannot be decoded is a *BadImage), [height, width, 3] in [−1, 1], and how it was made that: resized so that it covers the
// shape, antialiased, and cut to its middle. Scenes are drawn for the shape, whole.
func (s *Set) Picture(i int, shape bucket.Size) ([]float32, bucket.Fit, error) {
	if i < 0 || i >= s.Len() {
		return nil, bucket.Fit{}, fmt.Errorf("data: row %d of %d", i, s.Len())
	}
	if _, draws := s.source.(*sceneSource); draws || shape.Width == shape.Height && shape.Width == s.cacheSize {
		if shape.Width != shape.Height {
			return nil, bucket.Fit{}, fmt.Errorf("data: %s: scenes are squares, not %v; set data.buckets.list to none", s.path, shape)
		}
		pixels, err := s.Image(i, shape.Width)
		return pixels, bucket.Fit{Original: shape, Resized: shape, Target: shape, Scale: 1}, err
	}
	content, err := s.Encoded(i)
	if err != nil && !gone(err) {
		return nil, bucket.Fit{}, fmt.Errorf("data: %w", err)
	}
	var pixels []float32
	var fit bucket.Fit
	if err == nil {
		pixels, fit, err = Fitted(content, func(bucket.Size) bucket.Size { return shape })
	}
	if err != nil {
		return nil, fit, fmt.Errorf("data: %w", &BadImage{s.Row(i).Key, err, s.number(i)})
	}
	return pixels, fit, nil
}

// headBytes is what is read of an image for its size: enough for most files' metadata.
const headBytes = 64 << 10

// Size returns image i's size as it is shown, from a selection that knows it or from the beginning of the file. An image that
// is not there or is none is a *BadImage.
func (s *Set) Size(i int) (bucket.Size, error) {
	if d, ok := s.source.(*sceneSource); ok {
		side := d.renderer.Spec().Side
		return bucket.Size{Width: side, Height: side}, nil
	}
	head := s.Encoded
	if files, ok := s.source.(*source.Files); ok {
		if w, h := files.Size(s.number(i)); w > 0 {
			return bucket.Size{Width: w, Height: h}, nil
		}
		head = func(i int) ([]byte, error) { return files.Head(s.number(i), headBytes) }
	}
	content, err := head(i)
	if err != nil && !gone(err) {
		return bucket.Size{}, fmt.Errorf("data: %w", err)
	}
	var info images.Info
	if err == nil {
		info, err = images.Probe(content)
	}
	if err != nil && len(content) >= headBytes { // the size may stand behind a long profile
		if content, err = s.Encoded(i); err != nil {
			return bucket.Size{}, fmt.Errorf("data: %w", err)
		}
		info, err = images.Probe(content)
	}
	if err != nil {
		return bucket.Size{}, fmt.Errorf("data: %w", &BadImage{s.Row(i).Key, err, s.number(i)})
	}
	return bucket.Size{Width: info.Width, Height: info.Height}, nil
}

// scalePixels maps 0…255 to [−1, 1].
func scalePixels(pixels []uint8) []float32 {
	out := make([]float32, len(pixels))
	for i, v := range pixels {
		out[i] = float32(v)/127.5 - 1
	}
	return out
}
