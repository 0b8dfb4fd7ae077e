package images

import (
	"archive/zip"
	"encoding/binary"
	"io"
	"path"
	"strings"
	"testing"
)

// pillow reads testdata/pillow.zip: files, and what Pillow shows of them.
func pillow(t testing.TB) (files map[string][]byte, shown map[string]RGB) {
	t.Helper()
	z, err := zip.OpenReader("testdata/pillow.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files, shown = map[string][]byte{}, map[string]RGB{}
	for _, entry := range z.File {
		r, err := entry.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if name, isShown := strings.CutSuffix(entry.Name, ".rgb"); isShown {
			shown[name] = RGB{int(binary.LittleEndian.Uint32(content)), int(binary.LittleEndian.Uint32(content[4:])), content[8:]}
		} else {
			files[entry.Name] = content
		}
	}
	return files, shown
}

// TestPixelsAreThoseOfPillow compares all formats, orientations and modes. Lossless formats without a profile must agree to
// the bit; inverse DCTs round differently, and LittleCMS computes in fixed point.
func TestPixelsAreThoseOfPillow(t *testing.T) {
	files, shown := pillow(t)
	if len(files) < 80 || len(files) != len(shown) {
		t.Fatalf("%d files, %d pictures", len(files), len(shown))
	}
	for name, content := range files {
		want := shown[name]
		m, err := Decode(content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if info, err := Probe(content); err != nil || info.Width != want.Width || info.Height != want.Height {
			t.Errorf("%s: %+v, %v, want %d×%d", name, info, err, want.Width, want.Height)
		}
		if m.Width != want.Width || m.Height != want.Height || m.Check() != nil {
			t.Errorf("%s: %d×%d pixels, want %d×%d", name, m.Width, m.Height, want.Width, want.Height)
			continue
		}
		tolerance, mean := 0, 1.0
		switch ext := path.Ext(name); {
		case name == "profile_p3.jpg":
			tolerance = 6
		case name == "lossy.avif", name == "alpha.avif": // beside saturated colours, what the decoder has cut cannot be interpolated
			tolerance, mean = 45, 0.6
		case ext == ".jpg", strings.HasPrefix(name, "profile_"), ext == ".avif":
			tolerance = 3
		}
		largest, sum := 0, 0
		for i, v := range m.Pix {
			d := int(v) - int(want.Pix[i])
			largest, sum = max(largest, d, -d), sum+max(d, -d)
		}
		t.Logf("%-24s largest difference %d, mean %.3f", name, largest, float64(sum)/float64(len(m.Pix)))
		if largest > tolerance || float64(sum) > mean*float64(len(m.Pix)) {
			t.Errorf("%s: differs by up to %d levels, %d are allowed, %d in all", name, largest, tolerance, sum)
		}
	}
}
