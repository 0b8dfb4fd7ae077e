package images

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/weights"
)

// stride and whole are testdata/golden.py's: of results of more values than whole, every stride-th is in the file.
const (
	stride = 151
	whole  = 2000
)

// drawn rebuilds an image of testdata/golden.py.
func drawn(width, height int) RGB {
	m := New(width, height)
	for i := range m.Pix {
		z := uint64(i+1) * 0x9E3779B97F4A7C15
		z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		z ^= z >> 31
		c, x, y := i%3, i/3%width, i/3/width
		v := int(z>>57) + (3*x*(c+1)+5*y)%128
		if (x/9+y/7)%5 == 0 {
			v = 0
		} else if (x/11+y/5)%5 == 0 {
			v = 255
		}
		m.Pix[i] = uint8(v)
	}
	return m
}

func golden(t testing.TB) *weights.File {
	t.Helper()
	f, err := weights.Open(filepath.Join("testdata", "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// compare checks values against a tensor of the golden file.
func compare(t *testing.T, f *weights.File, name string, got []float32, tolerance float64) {
	t.Helper()
	tensor, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	var want []float32
	if tensor.DType == weights.U8 {
		for _, v := range tensor.Data {
			want = append(want, float32(v))
		}
	} else if want, err = tensor.Float32(); err != nil {
		t.Fatal(err)
	}
	if len(got) > whole {
		var few []float32
		for i := 0; i < len(got); i += stride {
			few = append(few, got[i])
		}
		got = few
	}
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("%s: %d values, want %d", name, len(got), len(want))
	}
	largest := 0.0
	for i := range want {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			t.Fatalf("%s: value %d is %g", name, i, got[i])
		}
		largest = max(largest, d)
	}
	if largest > tolerance {
		t.Errorf("%s: differs by %g grey levels, at most %g is allowed", name, largest, tolerance)
	}
}

// TestResizesAgreeWithPython compares images of odd sizes with clean-fid, Pillow, PyTorch and torch-fidelity.
func TestResizesAgreeWithPython(t *testing.T) {
	f := golden(t)
	for _, size := range [][2]int{{64, 64}, {97, 61}, {333, 517}, {1024, 768}, {299, 311}} {
		m := drawn(size[0], size[1])
		for _, to := range [][2]int{{299, 299}, {31, 17}} {
			name := fmt.Sprintf(".%dx%d.%dx%d", size[0], size[1], to[0], to[1])
			compare(t, f, "clean"+name, m.ResizeFloat(to[0], to[1], Bicubic).Pix, 1e-4)
			compare(t, f, "torch"+name, m.BilinearTorch(to[0], to[1]).Pix, 1e-3)
			compare(t, f, "tf1"+name, m.BilinearTF1(to[0], to[1]).Pix, 1e-4)
			compare(t, f, "lanczos"+name, m.Resize(to[0], to[1], Lanczos).Float().Pix, 0)
			compare(t, f, "bicubic"+name, m.Resize(to[0], to[1], Bicubic).Float().Pix, 0)
		}
		crop, err := m.CenterCrop(50, 31)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, f, fmt.Sprintf("crop.%dx%d.50x31", size[0], size[1]), crop.Float().Pix, 0)
		compare(t, f, fmt.Sprintf("square.%dx%d", size[0], size[1]), m.CenterSquare().Float().Pix, 0)
	}
}

func TestFilesAreReadAsPillowDoes(t *testing.T) {
	f := golden(t)
	for name, tolerance := range map[string]float64{
		"palette.png": 0, "grey.png": 0,
		"sampled_444.jpg": 3, "sampled_422.jpg": 3, "sampled_420.jpg": 3, // the inverse DCTs round differently
	} {
		m, err := Open(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		tensor, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		var largest, sum float64
		for i, v := range tensor.Data {
			d := math.Abs(float64(v) - float64(m.Pix[i]))
			largest, sum = max(largest, d), sum+d
		}
		mean := sum / float64(len(m.Pix))
		t.Logf("%s: largest difference %g, mean %.4f", name, largest, mean)
		if len(tensor.Data) != len(m.Pix) || largest > tolerance || mean > 0.1 {
			t.Errorf("%s: %d values, want %d; differs by up to %g, %g on average", name, len(m.Pix), len(tensor.Data), largest, mean)
		}
	}
}

// TestChromaMatters: repeated chroma, as Go's own conversion has it, is far from what Python sees.
func TestChromaMatters(t *testing.T) {
	file, err := os.Open(filepath.Join("testdata", "sampled_420.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	img, err := jpeg.Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	largest := 0
	ours := FromImage(img)
	for y := range ours.Height {
		for x := range ours.Width {
			r, _, _, _ := img.At(x, y).RGBA()
			largest = max(largest, int(r>>8)-int(ours.Pix[(y*ours.Width+x)*3]))
		}
	}
	if largest < 20 {
		t.Errorf("smooth and repeated chroma differ by %d levels only: the test image has no coloured edges", largest)
	}
}

func TestFromUnit(t *testing.T) {
	m, err := FromUnit([]float32{-2, -1, 0, 1, 2, 0.5}, 2, 1)
	if err != nil || !slices.Equal(m.Pix, []uint8{0, 0, 128, 255, 255, 191}) {
		t.Errorf("%v, %v", m.Pix, err)
	}
	nan := float32(math.NaN())
	if _, err := FromUnit([]float32{0, 0, 0, 0, nan, 0, 0, 0, 0, 0, 0, 0}, 2, 2); err == nil || !strings.Contains(err.Error(), "pixel (1, 0) is not a number") {
		t.Errorf("error %v", err)
	}
	if _, err := FromUnit(make([]float32, 5), 2, 1); err == nil || !strings.Contains(err.Error(), "2×1 pixels has 6 values, not 5") {
		t.Errorf("error %v", err)
	}
}

func TestBadImages(t *testing.T) {
	if _, err := drawn(9, 5).CenterCrop(9, 6); err == nil || !strings.Contains(err.Error(), "9×6 pixels cannot be cut out of an image of 9×5") {
		t.Errorf("error %v", err)
	}
	if _, err := drawn(9, 5).Crop(5, 0, 5, 5); err == nil || !strings.Contains(err.Error(), "from (5, 0) on cannot be cut out") {
		t.Errorf("error %v", err)
	}
	for _, m := range []RGB{{}, {Width: -1, Height: -1, Pix: make([]uint8, 3)}, {Width: 2, Height: 2, Pix: make([]uint8, 11)}} {
		if m.Check() == nil {
			t.Errorf("%d×%d with %d values accepted", m.Width, m.Height, len(m.Pix))
		}
	}
	path := filepath.Join(t.TempDir(), "broken.png")
	file, err := os.ReadFile(filepath.Join("testdata", "rgba.png"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file[:len(file)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "broken.png: broken PNG image") {
		t.Errorf("error %v", err)
	}
}

// FromImage reads parts of images, and JPEG colours at any offset, without leaving their bounds.
func TestSubImages(t *testing.T) {
	for _, ratio := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420,
		image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410} {
		for _, size := range [][2]int{{1, 1}, {2, 3}, {3, 2}, {5, 1}, {8, 7}} {
			img := image.NewYCbCr(image.Rect(0, 0, size[0], size[1]), ratio)
			for i := range img.Cb {
				img.Cb[i], img.Cr[i] = 200, 90
			}
			for i := range img.Y {
				img.Y[i] = 120
			}
			want := New(1, 1)
			fromLibjpeg(want.Pix, 120, 72, -38)
			for _, part := range []image.Image{img, img.SubImage(image.Rect(1, 1, size[0], size[1]))} {
				m := FromImage(part)
				for i, v := range m.Pix {
					if v != want.Pix[i%3] {
						t.Fatalf("%v %v: value %d is %d, want %d", ratio, part.Bounds(), i, v, want.Pix[i%3])
					}
				}
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	small, _ := pillow(f)
	for _, file := range small {
		f.Add(file)
	}
	for _, name := range []string{"rgba.png", "palette.png", "grey.png", "sampled_422.jpg", "sampled_420.jpg"} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		info, err := Probe(file)
		if err == nil && info.Width*info.Height > 1<<16 {
			t.Skip("large")
		}
		m, err := Decode(file)
		if err != nil {
			return
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		m.CenterSquare().ResizeFloat(7, 5, Bicubic)
	})
}

func BenchmarkClean1024(b *testing.B) {
	m := drawn(1024, 1024)
	for b.Loop() {
		m.ResizeFloat(299, 299, Bicubic)
	}
}

// What stands beside a file turns it, as EXIF would, where the file itself says nothing; the file can be had back.
func TestOrientationBeside(t *testing.T) {
	files, _ := pillow(t)
	for _, ext := range []string{"jpg", "png", "webp", "tiff"} {
		plain := files[map[string]string{"jpg": "rgb.jpg", "png": "rgba.png", "webp": "lossy.webp", "tiff": "rgb.tiff"}[ext]]
		own := files["orientation6."+ext]
		want, err := Decode(own)
		if err != nil {
			t.Fatal(err)
		}
		for o := range 10 {
			straight, err := Decode(plain)
			if err != nil {
				t.Fatal(err)
			}
			turned := straight.upright(o)
			marked := Oriented(plain, o)
			m, err := Decode(marked)
			if err != nil || m.Width != turned.Width || !bytes.Equal(m.Pix, turned.Pix) {
				t.Errorf("%s, orientation %d: %d×%d, %v", ext, o, m.Width, m.Height, err)
			}
			if info, err := Probe(marked); err != nil || info.Width != m.Width || info.Height != m.Height {
				t.Errorf("%s, orientation %d: %+v, %v", ext, o, info, err)
			}
			if file, found := Unmarked(marked); !bytes.Equal(file, plain) || found != o && o > 1 && o < 9 {
				t.Errorf("%s, orientation %d comes back as %d, %d bytes of %d", ext, o, found, len(file), len(plain))
			}
			if m, err := Decode(Oriented(own, o)); err != nil || !bytes.Equal(m.Pix, want.Pix) {
				t.Errorf("%s: orientation %d beside it outweighs the file's own, %v", ext, o, err)
			}
		}
	}
	if _, err := Decode(Oriented(nil, 6)); err == nil {
		t.Error("nothing is an image")
	}
}
