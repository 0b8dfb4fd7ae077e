package sample

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/pipeline"
	"fewstep/model/weights"
)

func mini(t *testing.T) *pipeline.Pipeline {
	t.Helper()
	p, err := pipeline.Open("../../assets/mini")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNoiseFiles(t *testing.T) {
	p, size := mini(t), pipeline.Size{Width: 64, Height: 32}
	want := [][]float32{Noise(p, 3, 0, size), Noise(p, 3, 1, size)}
	path := filepath.Join(t.TempDir(), "noise.safetensors")
	if err := WriteNoise(path, p, size, want); err != nil {
		t.Fatal(err)
	}
	f, err := weights.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	tensor, err := f.Tensor(noiseTensor)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := tensor.Float32(); err != nil || !slices.Equal(tensor.Shape, []int{2, 4, 8, 16}) || v[1] != want[0][4] || v[8*16] != want[0][1] {
		t.Errorf("shape %v, want channels before rows: %v", tensor.Shape, err)
	}
	f.Close()
	got, err := ReadNoise(path, p, size, 2)
	if err != nil || !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) {
		t.Errorf("read back differently: %v", err)
	}
	for _, c := range []struct {
		size pipeline.Size
		n    int
	}{{size, 1}, {pipeline.Square(64), 2}} {
		if _, err := ReadNoise(path, p, c.size, c.n); err == nil || !strings.Contains(err.Error(), "tensor latents has the shape [2 4 8 16]") {
			t.Errorf("%d of %v: %v", c.n, c.size, err)
		}
	}
}

func TestTrainedOn(t *testing.T) {
	sdxl := pipeline.Square(1024)
	for size, want := range map[pipeline.Size]bool{{Width: 1024, Height: 1024}: true, {Width: 1216, Height: 832}: true, {Width: 832, Height: 1216}: true,
		{Width: 512, Height: 512}: false, {Width: 1024, Height: 768}: false} {
		if TrainedOn(sdxl, size) != want {
			t.Errorf("%v: %t", size, !want)
		}
	}
	if TrainedOn(pipeline.Square(64), sdxl) || !TrainedOn(sdxl, sdxl) || !TrainedOn(pipeline.Square(64), pipeline.Square(64)) {
		t.Error("models of another size know their own alone")
	}
	for _, b := range buckets {
		if b.Width%64 != 0 || b.Height%64 != 0 || b.Width*b.Height < 900*1024 || b.Width*b.Height > 1024*1024 {
			t.Errorf("%v is no bucket of SDXL's", b)
		}
	}
}
