package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"

	"golang.org/x/image/webp"
)

// readWebP finds the orientation and profile of a WebP file and its size. Of an animation, f.content becomes a file of the
// first frame alone, which lies at f.frame of the canvas.
func (f *file) readWebP() (image.Config, error) {
	var exif, xmp, vp8x, first []byte
	riff(f.content[12:], func(kind string, data []byte) {
		switch {
		case kind == "EXIF":
			exif = data
		case kind == "XMP ":
			xmp = data
		case kind == "ICCP":
			f.profile = data
		case kind == "VP8X" && len(data) >= 10:
			vp8x = data
		case kind == "ANMF" && len(data) >= 16 && first == nil:
			first = data
		}
	})
	f.orient(exif, xmp)
	if first == nil || vp8x == nil {
		return webp.DecodeConfig(bytes.NewReader(f.content))
	}
	config := image.Config{Width: 1 + le24(vp8x[4:]), Height: 1 + le24(vp8x[7:])}
	f.frame = image.Pt(2*le24(first), 2*le24(first[3:]))
	width, height := 1+le24(first[6:]), 1+le24(first[9:])
	if f.frame.X+width > config.Width || f.frame.Y+height > config.Height {
		return config, errors.New("the first frame lies outside the canvas")
	}
	f.content = still(first[16:], width, height)
	frame, err := webp.DecodeConfig(bytes.NewReader(f.content))
	if err == nil && (frame.Width != width || frame.Height != height) {
		err = errors.New("the first frame is not of the size that it says")
	}
	return config, err
}

// still makes a WebP file of an animation's frame.
func still(chunks []byte, width, height int) []byte {
	var alpha, image []byte
	riff(chunks, func(kind string, data []byte) {
		switch kind {
		case "ALPH":
			alpha = riffChunk(nil, kind, data)
		case "VP8 ", "VP8L":
			image = riffChunk(nil, kind, data)
		}
	})
	body := []byte("WEBP")
	if alpha != nil {
		w, h := width-1, height-1
		body = riffChunk(body, "VP8X", []byte{0x10, 0, 0, 0, byte(w), byte(w >> 8), byte(w >> 16), byte(h), byte(h >> 8), byte(h >> 16)})
	}
	body = append(append(body, alpha...), image...)
	return riffChunk(nil, "RIFF", body)
}

func riffChunk(to []byte, kind string, data []byte) []byte {
	to = binary.LittleEndian.AppendUint32(append(to, kind...), uint32(len(data)))
	to = append(to, data...)
	if len(data)%2 == 1 {
		to = append(to, 0)
	}
	return to
}

// riff walks chunks.
func riff(b []byte, visit func(kind string, data []byte)) {
	for len(b) >= 8 {
		n := int(binary.LittleEndian.Uint32(b[4:]))
		if n > len(b)-8 {
			return
		}
		visit(string(b[:4]), b[8:8+n])
		b = b[min(8+n+n%2, len(b)):]
	}
}

func le24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// decodeWebP decodes as libwebp does.
func (f *file) decodeWebP() (RGB, error) {
	img, err := webp.Decode(bytes.NewReader(f.content))
	if err != nil {
		return RGB{}, err
	}
	var m RGB
	switch img := img.(type) {
	case *image.YCbCr:
		m = fromVP8(img, nil, 0)
	case *image.NYCbCrA:
		m = fromVP8(&img.YCbCr, img.A, img.AStride)
	default:
		m = FromImage(img)
	}
	if m.Width == f.width && m.Height == f.height {
		return m, nil
	}
	out := New(f.width, f.height)
	for i := range out.Pix {
		out.Pix[i] = 255
	}
	for y := range m.Height {
		copy(out.Pix[((f.frame.Y+y)*f.width+f.frame.X)*3:], m.Pix[y*m.Width*3:(y+1)*m.Width*3])
	}
	return out, nil
}

// fromVP8 converts lossy WebP: VP8's luma and chroma are of limited range (16 to 235, ITU-R BT.601), where a JPEG file's
// are of full range, and chroma is interpolated ("fancy upsampling"). The fixed-point numbers are libwebp's.
func fromVP8(src *image.YCbCr, alpha []uint8, stride int) RGB {
	b := src.Bounds()
	m := New(b.Dx(), b.Dy())
	columns, rows := (m.Width+1)/2, (m.Height+1)/2
	for y := range m.Height {
		luma := src.Y[y*src.YStride:]
		near, far := y/2, max(y/2-1, 0)
		if y%2 == 1 {
			far = min(y/2+1, rows-1)
		}
		sample := func(plane []uint8, x int) int32 {
			at, next := x/2, max(x/2-1, 0)
			if x%2 == 1 {
				next = min(x/2+1, columns-1)
			}
			a, c := plane[near*src.CStride:], plane[far*src.CStride:]
			return (9*int32(a[at]) + 3*int32(a[next]) + 3*int32(c[at]) + int32(c[next]) + 8) >> 4
		}
		for x := range m.Width {
			u, v := sample(src.Cb, x), sample(src.Cr, x)
			l := int32(luma[x]) * 19077 >> 8
			to := m.Pix[(y*m.Width+x)*3:]
			to[0] = clip((l + v*26149>>8 - 14234) >> 6)
			to[1] = clip((l - u*6419>>8 - v*13320>>8 + 8708) >> 6)
			to[2] = clip((l + u*33050>>8 - 17685) >> 6)
			if alpha != nil {
				onWhite(to, alpha[y*stride+x])
			}
		}
	}
	return m
}
