package images

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"runtime"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/sync/semaphore"
)

// DecoderVersion changes whenever the same file may give other pixels than before: what was made of decoded images is
// kept under it.
const DecoderVersion = 3

// MaxPixels is the largest image that is decoded: 8,192 pixels squared. What a file claims beyond that is an error before
// anything is decoded.
const MaxPixels = 1 << 26

// inFlight bounds the memory of all images that are being decoded at a time, in bytes, however many cores there are. An
// image that takes more is decoded alone.
var inFlight int64 = 1 << 30

var flight = newFlight(inFlight)

func newFlight(bytes int64) *semaphore.Weighted { return semaphore.NewWeighted(bytes) }

// Info is what an image file says of itself before it is decoded.
type Info struct {
	Format        string // "JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP" or "TIFF"
	Width, Height int    // as shown: after the orientation
}

// file is an encoded image that was looked at.
type file struct {
	format        string
	content       []byte // what a decoder takes
	width, height int    // as stored
	bytes         int64  // that decoding takes, about
	orientation   int    // EXIF's, 1 to 8; while it is looked at, 0 = none is said
	profile       []byte // ICC; may be nil
	frame         image.Point
	alpha         bool         // WebP: of an animation's first frame
	chroma        chromaPlanes // AVIF
}

// Probe reads an image's format and size.
func Probe(content []byte) (info Info, err error) {
	f, err := open(content)
	if err != nil {
		return Info{}, err
	}
	info = Info{f.format, f.width, f.height}
	if f.orientation >= 5 {
		info.Width, info.Height = f.height, f.width
	}
	return info, nil
}

// Decode reads a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF file, whatever its name, into 8-bit sRGB as Pillow shows it:
// upright by its EXIF orientation, transparency on white, CMYK converted, 16 bits cut to their upper 8, an ICC profile
// of the matrix kind converted to sRGB, of an animation the first frame. Pixels are Pillow's to the bit for lossless files
// and lossy WebP, to 3 levels for JPEG; of AVIF files with chroma of half the size, coloured edges differ, because the
// decoder repeats chroma that Pillow interpolates. A panic in a decoder is an error here.
func Decode(content []byte) (m RGB, err error) {
	err = With(content, func(decoded RGB) error {
		m = decoded
		return nil
	})
	return m, err
}

// With decodes as Decode does and gives the image to use. Images count towards the bound of memory until use returns, so
// it should keep less than the whole image.
func With(content []byte, use func(m RGB) error) (err error) {
	f, err := open(content)
	if err != nil {
		return err
	}
	weight := min(f.bytes, inFlight)
	if err := flight.Acquire(context.Background(), weight); err != nil {
		return err
	}
	defer flight.Release(weight)
	m, err := f.decode()
	if weight >= inFlight/4 {
		runtime.GC() // what the decoder leaves behind may be as large as the bound
	}
	if err != nil {
		return err
	}
	return use(m)
}

// open finds out what a file is, without decoding it.
func open(content []byte) (f *file, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("broken image: %v", p)
		}
	}()
	content, orientation := Unmarked(content)
	if len(content) == 0 {
		return nil, errors.New("image is empty")
	}
	f = &file{format: formatOf(content), content: content}
	if why, named := unreadable[f.format]; named {
		return nil, fmt.Errorf("not an image that can be read: %s", why)
	}
	perPixel := int64(4)
	var config image.Config
	switch f.format {
	case "JPEG":
		f.readJPEG()
		perPixel = 5 // planes of luma and chroma, chroma brought to full size
		config, err = jpeg.DecodeConfig(bytes.NewReader(f.content))
	case "PNG":
		f.readPNG()
		config, err = png.DecodeConfig(bytes.NewReader(content))
		if len(content) > 24 && content[24] == 16 {
			perPixel = 8
		}
	case "WebP":
		perPixel = 6
		config, err = f.readWebP()
	case "AVIF":
		f.readAVIF()
		perPixel = 24 // planes, RGBA twice, of up to 16 bits
		config, err = avifConfig(content)
	case "GIF":
		config, err = gif.DecodeConfig(bytes.NewReader(content))
	case "BMP":
		config, err = bmp.DecodeConfig(bytes.NewReader(content))
	case "TIFF":
		f.readTIFF()
		perPixel = 8
		config, err = tiff.DecodeConfig(bytes.NewReader(content))
	default:
		return nil, errors.New("not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image")
	}
	if err != nil {
		return nil, fmt.Errorf("broken %s image: %w", f.format, err)
	}
	f.orientation = cmp.Or(f.orientation, orientation, 1)
	f.width, f.height = config.Width, config.Height
	if f.width <= 0 || f.height <= 0 || f.width > MaxPixels/f.height {
		return nil, fmt.Errorf("%s image claims %d×%d pixels; at most %d million are read", f.format, f.width, f.height, MaxPixels/1_000_000)
	}
	f.bytes = int64(f.width) * int64(f.height) * (perPixel + 6) // the result, and its turned copy
	return f, nil
}

// decode gives the pixels of a file that was opened.
func (f *file) decode() (m RGB, err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = RGB{}, fmt.Errorf("broken image: %v", p)
		}
	}()
	switch f.format {
	case "JPEG":
		m, err = decoded(jpeg.Decode(bytes.NewReader(f.content)))
	case "PNG":
		m, err = decoded(png.Decode(bytes.NewReader(f.content)))
	case "WebP":
		m, err = f.decodeWebP()
	case "AVIF":
		var img image.Image
		if img, err = avifDecode(f.content); err == nil {
			m = FromImage(img)
			f.chroma.interpolate(m, img)
		}
	case "GIF":
		var img image.Image
		if img, err = gif.Decode(bytes.NewReader(f.content)); err == nil {
			m = onCanvas(img, f.width, f.height)
		}
	case "BMP":
		m, err = decoded(bmp.Decode(bytes.NewReader(f.content)))
	case "TIFF":
		m, err = decoded(tiff.Decode(bytes.NewReader(f.content)))
	}
	if err != nil {
		return RGB{}, fmt.Errorf("broken %s image: %w", f.format, err)
	}
	toSRGB(m, f.profile)
	return m.upright(f.orientation), nil
}

func decoded(img image.Image, err error) (RGB, error) {
	if err != nil {
		return RGB{}, err
	}
	return FromImage(img), nil
}

// onCanvas lays a frame at its place on white.
func onCanvas(img image.Image, width, height int) RGB {
	b, part := img.Bounds(), FromImage(img)
	if b == image.Rect(0, 0, width, height) {
		return part
	}
	out := New(width, height)
	for i := range out.Pix {
		out.Pix[i] = 255
	}
	at := b.Intersect(image.Rect(0, 0, width, height))
	for y := at.Min.Y; y < at.Max.Y; y++ {
		from := part.Pix[((y-b.Min.Y)*part.Width+at.Min.X-b.Min.X)*3:]
		copy(out.Pix[(y*width+at.Min.X)*3:(y*width+at.Max.X)*3], from)
	}
	return out
}

// Open reads an image file. Errors name it.
func Open(path string) (RGB, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return RGB{}, err
	}
	m, err := Decode(content)
	if err != nil {
		return RGB{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
