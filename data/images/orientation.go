package images

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"regexp"
	"slices"
)

// upright turns and mirrors an image by EXIF's orientation, as PIL's exif_transpose does. The image may be reused.
func (m RGB) upright(orientation int) RGB {
	if orientation < 2 || orientation > 8 {
		return m
	}
	w, h := m.Width, m.Height
	out := New(w, h)
	if orientation >= 5 {
		out.Width, out.Height = h, w
	}
	for y := range out.Height {
		for x := range out.Width {
			var fx, fy int
			switch orientation {
			case 2: // mirrored
				fx, fy = w-1-x, y
			case 3: // half a turn
				fx, fy = w-1-x, h-1-y
			case 4: // upside down
				fx, fy = x, h-1-y
			case 5: // transposed
				fx, fy = y, x
			case 6: // to be turned clockwise
				fx, fy = y, h-1-x
			case 7: // transposed along the other diagonal
				fx, fy = w-1-y, h-1-x
			case 8: // to be turned counter-clockwise
				fx, fy = w-1-y, x
			}
			copy(out.Pix[(y*out.Width+x)*3:][:3], m.Pix[(fy*w+fx)*3:][:3])
		}
	}
	return out
}

// exifOrientation reads tag 0x112 of the first directory of an EXIF block; 0 = it has none.
func exifOrientation(b []byte) int {
	b = bytes.TrimPrefix(b, []byte("Exif\x00\x00"))
	value, _ := tiffTag(b, 0x112)
	if len(value) == 1 && value[0] >= 1 && value[0] <= 8 {
		return int(value[0])
	}
	return 0
}

// tiffTag reads a tag of bytes, shorts or longs of a TIFF file's first directory: the numbers, or the bytes themselves.
func tiffTag(b []byte, tag uint16) (numbers []uint32, raw []byte) {
	if len(b) < 8 {
		return nil, nil
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[0] == 'M' {
		order = binary.BigEndian
	}
	at := int(order.Uint32(b[4:]))
	if at < 8 || at+2 > len(b) {
		return nil, nil
	}
	n := int(order.Uint16(b[at:]))
	for i := range n {
		e := at + 2 + 12*i
		if e+12 > len(b) {
			return nil, nil
		}
		if order.Uint16(b[e:]) != tag {
			continue
		}
		size := map[uint16]int{1: 1, 3: 2, 4: 4, 7: 1}[order.Uint16(b[e+2:])]
		count := int(order.Uint32(b[e+4:]))
		if size == 0 || count < 1 || count > len(b) {
			return nil, nil
		}
		value := b[e+8 : e+12]
		if size*count > 4 {
			from := int(order.Uint32(b[e+8:]))
			if from > len(b)-size*count {
				return nil, nil
			}
			value = b[from : from+size*count]
		}
		value = value[:size*count]
		for k := 0; k < len(value) && size > 1; k += size {
			if size == 2 {
				numbers = append(numbers, uint32(order.Uint16(value[k:])))
			} else {
				numbers = append(numbers, order.Uint32(value[k:]))
			}
		}
		return numbers, value
	}
	return nil, nil
}

// beside begins an image file that Oriented marked; the orientation is the byte after it.
const beside = "\x00orientation "

// Oriented marks an image file for this package's readers with an EXIF orientation that stands beside it, as img2dataset keeps
// it when it encodes an image anew. It counts where the file itself says none. 0 and 1 mark nothing.
func Oriented(content []byte, orientation int) []byte {
	if orientation < 2 || orientation > 8 {
		return content
	}
	return slices.Concat([]byte(beside), []byte{byte(orientation)}, content)
}

// Unmarked is the file that Oriented was given, with its orientation; 0 = it is not marked.
func Unmarked(content []byte) (file []byte, orientation int) {
	rest, ok := bytes.CutPrefix(content, []byte(beside))
	if !ok || len(rest) == 0 || rest[0] < 2 || rest[0] > 8 {
		return content, 0
	}
	return rest[1:], int(rest[0])
}

var xmpOrientation = regexp.MustCompile(`tiff:Orientation(="|>)([1-8])`)

// orient takes the orientation of an EXIF block, or, where that has none, of XMP, as Pillow does.
func (f *file) orient(exif, xmp []byte) {
	f.orientation = 0
	if o := exifOrientation(exif); o > 0 {
		f.orientation = o
	} else if found := xmpOrientation.FindSubmatch(xmp); found != nil {
		f.orientation = int(found[2][0] - '0')
	}
}

// readTIFF finds the orientation and the profile of a TIFF file.
func (f *file) readTIFF() {
	_, xmp := tiffTag(f.content, 700)
	f.orient(f.content, xmp)
	_, f.profile = tiffTag(f.content, 34675)
}

// readPNG finds the orientation and the profile of a PNG file.
func (f *file) readPNG() {
	var exif, xmp []byte
	for b := f.content[8:]; len(b) >= 12; {
		n := int(binary.BigEndian.Uint32(b))
		if n < 0 || n > len(b)-12 {
			break
		}
		data := b[8 : 8+n]
		switch string(b[4:8]) {
		case "eXIf":
			exif = data
		case "iTXt":
			if rest, ok := bytes.CutPrefix(data, []byte("XML:com.adobe.xmp\x00\x00\x00")); ok {
				xmp = rest
			}
		case "iCCP":
			if _, rest, ok := bytes.Cut(data, []byte{0}); ok && len(rest) > 1 {
				f.profile = inflate(rest[1:])
			}
		}
		b = b[12+n:]
	}
	f.orient(exif, xmp)
}

// inflate expands a profile, which is of a few kilobytes where it is of use.
func inflate(b []byte) []byte {
	r, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil
	}
	out, err := io.ReadAll(io.LimitReader(r, 1<<22))
	if err != nil {
		return nil
	}
	return out
}
