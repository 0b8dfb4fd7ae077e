package images

import (
	"bytes"
	"encoding/binary"
	"image"
	"slices"
)

// readJPEG finds the orientation and the profile of a JPEG file. Where four components have no Adobe marker, f.content
// gets one: they are CMYK, inverted, as Photoshop writes them and Pillow takes them.
func (f *file) readJPEG() {
	var exif, xmp []byte
	profile := map[byte][]byte{}
	adobe, four := false, false
	for b := f.content[2:]; len(b) >= 4 && b[0] == 0xff; {
		kind := b[1]
		if kind == 0xff { // padding
			b = b[1:]
			continue
		}
		if kind == 0xda || kind == 0xd9 { // the image itself, the end
			break
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < 2 || n+2 > len(b) {
			break
		}
		data := b[4 : 2+n]
		switch {
		case kind == 0xe1 && bytes.HasPrefix(data, []byte("Exif\x00\x00")) && exif == nil:
			exif = data
		case kind == 0xe1 && bytes.HasPrefix(data, []byte("http://ns.adobe.com/xap/1.0/\x00")):
			xmp = data
		case kind == 0xe2 && bytes.HasPrefix(data, []byte("ICC_PROFILE\x00")) && len(data) > 14:
			profile[data[12]] = data[14:]
		case kind == 0xee && bytes.HasPrefix(data, []byte("Adobe")):
			adobe = true
		case (kind == 0xc0 || kind == 0xc1 || kind == 0xc2) && len(data) >= 6:
			four = data[5] == 4
		}
		b = b[2+n:]
	}
	f.orient(exif, xmp)
	for i := byte(1); len(profile[i]) > 0; i++ {
		f.profile = append(f.profile, profile[i]...)
	}
	if four {
		f.profile = nil // of the inks; the conversion is Pillow's, without profiles
		if !adobe {
			f.content = slices.Concat(f.content[:2], []byte("\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"), f.content[2:])
		}
	}
}

// fromYCbCr converts a decoded JPEG file as libjpeg does: chroma of half the width or height is interpolated
// (triangle filter) where image.YCbCr repeats it, which differs by many grey levels at coloured edges.
func fromYCbCr(m RGB, src *image.YCbCr) {
	cb, cr := chroma(src, src.Cb), chroma(src, src.Cr)
	b := src.Bounds()
	for y := range m.Height {
		luma := src.Y[src.YOffset(b.Min.X, b.Min.Y+y):]
		for x := range m.Width {
			at := y*m.Width + x
			fromLibjpeg(m.Pix[3*at:], int32(luma[x]), int32(cb[at])-128, int32(cr[at])-128)
		}
	}
}

// fromLibjpeg is libjpeg's colour conversion in 16-bit fixed point.
func fromLibjpeg(to []uint8, y, cb, cr int32) {
	const half = 1 << 15
	to[0] = clip(y + (91881*cr+half)>>16)
	to[1] = clip(y + (-22554*cb-46802*cr+half)>>16)
	to[2] = clip(y + (116130*cb+half)>>16)
}

func clip(v int32) uint8 { return uint8(min(max(v, 0), 255)) }

// chroma brings one of an image's chroma planes to the image's size, [height·width].
func chroma(src *image.YCbCr, plane []uint8) []uint8 {
	b := src.Bounds()
	across := src.SubsampleRatio == image.YCbCrSubsampleRatio422 || src.SubsampleRatio == image.YCbCrSubsampleRatio420
	down := src.SubsampleRatio == image.YCbCrSubsampleRatio440 || src.SubsampleRatio == image.YCbCrSubsampleRatio420
	narrow := across && (b.Dx()+1)/2 <= 2 // libjpeg repeats there
	if b.Min == (image.Point{}) && (across || down) && !narrow {
		return smooth(src, plane, across, down)
	}
	out := make([]uint8, 0, b.Dx()*b.Dy())
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			out = append(out, plane[src.COffset(x, y)])
		}
	}
	return out
}

// smooth doubles a chroma plane in width, height or both: three parts of the nearest sample and one of the next.
// Halves are rounded down and up in turn, as libjpeg does.
func smooth(src *image.YCbCr, plane []uint8, across, down bool) []uint8 {
	width, height := src.Rect.Dx(), src.Rect.Dy()
	columns, rows := width, height
	if across {
		columns = (width + 1) / 2
	}
	if down {
		rows = (height + 1) / 2
	}
	out := make([]uint8, 0, width*height)
	line := make([]int32, columns) // times 4 if down
	for y := range height {
		if down {
			near, far := y/2, max(y/2-1, 0)
			if y%2 == 1 {
				far = min(y/2+1, rows-1)
			}
			for x := range line {
				line[x] = 3*int32(plane[near*src.CStride+x]) + int32(plane[far*src.CStride+x])
			}
		} else {
			for x := range line {
				line[x] = int32(plane[y*src.CStride+x])
			}
		}
		for x := range width {
			out = append(out, uint8(across2(line, x, y, across, down)))
		}
	}
	return out
}

// across2 is sample x of a line that is to be doubled, or just scaled back.
func across2(line []int32, x, y int, across, down bool) int32 {
	if !across {
		return (line[x] + 1 + int32(y%2)) >> 2
	}
	at, next, rounding, shift := x/2, x/2-1, [2]int32{1, 2}, 2
	if x%2 == 1 {
		next = x/2 + 1
	}
	if down {
		rounding, shift = [2]int32{8, 7}, 4
	}
	if next < 0 || next == len(line) {
		if !down {
			return line[at]
		}
		next = at
	}
	return (3*line[at] + line[next] + rounding[x%2]) >> shift
}
