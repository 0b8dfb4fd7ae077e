package images

import (
	"bytes"
	"encoding/binary"
	"image"
	"sync"
	_ "unsafe" // for the name of a variable in another package

	"github.com/gen2brain/avif"
)

// avifDynamic is the library's switch to a libavif of the system, which would make pixels depend on the machine. The one
// that comes with the module, as WebAssembly, is the same everywhere.
//
//go:linkname avifDynamic github.com/gen2brain/avif.dynamic
var avifDynamic bool

var avifOnce = sync.OnceFunc(func() { avifDynamic = false })

func avifConfig(content []byte) (image.Config, error) {
	avifOnce()
	return avif.DecodeConfig(bytes.NewReader(content))
}

func avifDecode(content []byte) (image.Image, error) {
	avifOnce()
	return avif.Decode(bytes.NewReader(content))
}

// readAVIF finds the primary image's rotation and mirror (properties irot and imir, which take the place of EXIF's
// orientation in this format), its planes of colour and its ICC profile.
func (f *file) readAVIF() {
	f.chroma = chromaPlanes{1, 1, 0.299, 0.114}
	meta := box(f.content, "meta")
	if len(meta) < 4 {
		return
	}
	meta = meta[4:]
	primary := 0
	if p := box(meta, "pitm"); len(p) >= 6 {
		if p[0] == 0 {
			primary = int(binary.BigEndian.Uint16(p[4:]))
		} else if len(p) >= 8 {
			primary = int(binary.BigEndian.Uint32(p[4:]))
		}
	}
	iprp := box(meta, "iprp")
	var properties [][2][]byte // kind, content
	boxes(box(iprp, "ipco"), func(kind string, content []byte) {
		properties = append(properties, [2][]byte{[]byte(kind), content})
	})
	rotation, mirror := 0, -1
	for _, i := range associations(box(iprp, "ipma"), primary) {
		if i < 1 || i > len(properties) {
			continue
		}
		switch p := properties[i-1]; {
		case string(p[0]) == "irot" && len(p[1]) > 0:
			rotation = int(p[1][0] & 3) // quarter turns, counter-clockwise
		case string(p[0]) == "imir" && len(p[1]) > 0:
			mirror = int(p[1][0] & 1) // 0 = top and bottom change places, 1 = left and right
		case string(p[0]) == "av1C" && len(p[1]) > 2:
			f.chroma.x, f.chroma.y = 1+int(p[1][2]>>3&1), 1+int(p[1][2]>>2&1)
		case string(p[0]) == "colr" && len(p[1]) >= 10 && string(p[1][:4]) == "nclx":
			if m, ok := matrices[binary.BigEndian.Uint16(p[1][8:])]; ok {
				f.chroma.kr, f.chroma.kb = m[0], m[1]
			}
		case string(p[0]) == "colr" && len(p[1]) > 4 && (string(p[1][:4]) == "prof" || string(p[1][:4]) == "rICC"):
			f.profile = p[1][4:]
		}
	}
	f.orientation = map[int][4]int{-1: {1, 8, 3, 6}, 0: {4, 5, 2, 7}, 1: {2, 7, 4, 5}}[mirror][rotation]
}

// boxes walks the boxes of an ISO media file, or of a box's content.
func boxes(b []byte, visit func(kind string, content []byte)) {
	for len(b) >= 8 {
		size, head := uint64(binary.BigEndian.Uint32(b)), uint64(8)
		if size == 1 && len(b) >= 16 {
			size, head = binary.BigEndian.Uint64(b[8:]), 16
		} else if size == 0 {
			size = uint64(len(b))
		}
		if size < head || size > uint64(len(b)) {
			return
		}
		visit(string(b[4:8]), b[head:size])
		b = b[size:]
	}
}

// box is the content of the first box of a kind; nil if there is none.
func box(b []byte, kind string) (found []byte) {
	boxes(b, func(k string, content []byte) {
		if k == kind && found == nil {
			found = content
		}
	})
	return found
}

// associations lists the properties of an item, by number from 1 on.
func associations(b []byte, item int) (properties []int) {
	if len(b) < 8 {
		return nil
	}
	version, wide, n := b[0], b[3]&1 == 1, int(binary.BigEndian.Uint32(b[4:]))
	b = b[8:]
	for range n {
		idSize := 2
		if version > 0 {
			idSize = 4
		}
		if len(b) < idSize+1 {
			return properties
		}
		id := int(binary.BigEndian.Uint16(b[idSize-2:]))
		count := int(b[idSize])
		b = b[idSize+1:]
		for range count {
			var p int
			if wide && len(b) >= 2 {
				p, b = int(binary.BigEndian.Uint16(b)&0x7fff), b[2:]
			} else if !wide && len(b) >= 1 {
				p, b = int(b[0]&0x7f), b[1:]
			} else {
				return properties
			}
			if id == item {
				properties = append(properties, p)
			}
		}
	}
	return properties
}
