package stats

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadNumpyStatistics(t *testing.T) {
	x := lcgFeatures(3, 10, 3, 0.5, 1)
	mean, cov := twoPass(x)
	for file, tolerance := range map[string]float64{"stats.npz": 1e-14, "stats_fortran_float32.npz": 1e-7} {
		m, err := ReadNPZ(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if m.Count() != 0 {
			t.Errorf("%s: count %d, want unknown", file, m.Count())
		}
		for i := range 3 {
			if math.Abs(m.Mean()[i]-mean[i]) > tolerance {
				t.Errorf("%s: mean[%d] = %v, want %v", file, i, m.Mean()[i], mean[i])
			}
			for j := range 3 {
				if math.Abs(m.Covariance().At(i, j)-cov.At(i, j)) > tolerance {
					t.Errorf("%s: sigma(%d, %d) = %v, want %v", file, i, j, m.Covariance().At(i, j), cov.At(i, j))
				}
			}
		}
		if err := m.Add(x[0]); err == nil {
			t.Errorf("%s: added to statistics of unknown count", file)
		}
	}
}

func TestNPZRoundTrip(t *testing.T) {
	x := lcgFeatures(5, 40, 17, 0, 1)
	m, _ := MomentsOf(x)
	path := filepath.Join(t.TempDir(), "reference.npz")
	if err := WriteNPZ(path, m); err != nil {
		t.Fatal(err)
	}
	back, err := ReadNPZ(path)
	if err != nil {
		t.Fatal(err)
	}
	requireMoments(t, "read back", back, x)
	if v, err := Frechet(m, back); err != nil || v > 1e-10 {
		t.Errorf("distance to itself after a round trip: %g, %v", v, err)
	}
	if err := back.AddBatch(x[:3]); err != nil {
		t.Errorf("statistics with a count can be added to: %v", err)
	}
	first, _ := os.ReadFile(path)
	if err := WriteNPZ(path, m); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(path); !bytes.Equal(first, second) {
		t.Error("the same moments gave different bytes")
	}
	if err := WriteNPZ(path, NewMoments(3)); err == nil {
		t.Error("statistics of no samples were written")
	}
}

func TestReadNPZBadFiles(t *testing.T) {
	good, err := os.ReadFile("testdata/stats.npz")
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"empty":     nil,
		"text":      []byte("mu sigma"),
		"truncated": good[:len(good)/2],
		"damaged":   bytes.Replace(good, []byte("sigma.npy"), []byte("gamma.npy"), -1),
	} {
		path := filepath.Join(t.TempDir(), "bad.npz")
		if err := os.WriteFile(path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadNPZ(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that names the file", name, err)
		}
	}
}

func FuzzReadNPZ(f *testing.F) {
	for _, name := range []string{"stats.npz", "stats_fortran_float32.npz"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := readNPZ(bytes.NewReader(raw), int64(len(raw)))
		if err == nil && (m.Dims() == 0 || len(m.Mean()) != m.Dims()) {
			t.Errorf("accepted statistics of %d dimensions", m.Dims())
		}
	})
}
