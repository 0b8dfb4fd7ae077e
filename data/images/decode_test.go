package images

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"hash/crc32"
	"image/jpeg"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func pngChunk(kind string, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	b = append(append(b, kind...), data...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// bomb is a PNG of one bit a pixel that claims a size and holds one row.
func bomb(width, height uint32) []byte {
	head := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, width), height), 1, 0, 0, 0, 0)
	var data bytes.Buffer
	z := zlib.NewWriter(&data)
	z.Write(make([]byte, 1+(width+7)/8))
	z.Close()
	out := append([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", head)...)
	return append(append(out, pngChunk("IDAT", data.Bytes())...), pngChunk("IEND", nil)...)
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	files, _ := pillow(t)
	jpg := files["sampled420.jpg"]
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"nothing":      {nil, "image is empty"},
		"bomb":         {bomb(30000, 30000), "claims 30000×30000 pixels; at most 67 million"},
		"wide bomb":    {bomb(1<<31-1, 1), "PNG image"},
		"heic":         {[]byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"), "a HEIC image"},
		"jxl":          {[]byte("\xff\x0a\x00\x00"), "a JPEG XL image"},
		"jxl box":      {[]byte("\x00\x00\x00\x0cJXL \r\n\x87\n"), "a JPEG XL image"},
		"html":         {[]byte(" <!DOCTYPE html><html>404"), "an HTML page"},
		"svg":          {[]byte("<svg xmlns='...'/>"), "SVG"},
		"lfs":          {[]byte("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"},
		"appledouble":  {[]byte("\x00\x05\x16\x07\x00\x02"), "AppleDouble"},
		"text":         {[]byte("hello"), "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image"},
		"half a JPEG":  {jpg[:len(jpg)/2], "broken JPEG image"},
		"head of PNG":  {files["rgba.png"][:20], "broken PNG image"},
		"head of AVIF": {files["lossy.avif"][:100], "broken AVIF image"},
	} {
		if _, err := Decode(c.content); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
}

// Decoding is bounded by the memory of the images in flight, not by the number of goroutines.
func TestPixelsInFlightAreBounded(t *testing.T) {
	files, _ := pillow(t)
	content := files["deep_rgb.png"]
	f, err := open(content)
	if err != nil {
		t.Fatal(err)
	}
	before, limit := flight, inFlight
	defer func() { flight, inFlight = before, limit }()
	for _, c := range []struct{ room, most int64 }{{3*f.bytes + f.bytes/2, 3}, {f.bytes / 2, 1}} {
		inFlight = c.room
		flight = newFlight(c.room)
		var now, most atomic.Int64
		var wait sync.WaitGroup
		for range 16 {
			wait.Go(func() {
				for range 20 {
					err := With(content, func(RGB) error {
						n := now.Add(1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						defer now.Add(-1)
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
		if most.Load() > c.most || now.Load() != 0 {
			t.Errorf("room for %d bytes: %d images at a time, want at most %d", c.room, most.Load(), c.most)
		}
	}
}

// A colour conversion that differs from Go's own is not for nothing.
func TestLossyWebPIsOfLimitedRange(t *testing.T) {
	files, _ := pillow(t)
	m, err := Decode(files["lossy_flat.webp"])
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range m.Pix {
		if v != 255 {
			t.Fatalf("white is %d", v)
		}
	}
}

func BenchmarkDecodeJPEG(b *testing.B) {
	var file bytes.Buffer
	m := drawn(1024, 1024)
	if err := jpeg.Encode(&file, m.Image(), nil); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Decode(file.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}
