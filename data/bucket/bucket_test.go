package bucket

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// TestAgreesWithKohya compares lists of shapes, and the choice and resizing of 1,000 images, with sd-scripts.
func TestAgreesWithKohya(t *testing.T) {
	raw, err := os.ReadFile("testdata/kohya.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Resolutions []struct {
			Area, Least, Most, Step int
			Sizes                   [][2]int
		}
		Choices [][6]int
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Resolutions) < 5 || len(golden.Choices) != 1000 {
		t.Fatal(len(golden.Resolutions), len(golden.Choices))
	}
	for _, r := range golden.Resolutions {
		var want []Size
		for _, s := range r.Sizes {
			want = append(want, Size{s[0], s[1]})
		}
		if got, err := Resolutions(r.Area, r.Least, r.Most, r.Step); err != nil || !slices.Equal(got, want) {
			t.Errorf("%+v: %v, %v", r, got, err)
		}
	}
	shapes, err := Resolutions(1024*1024, 256, 2048, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range golden.Choices {
		image := Size{c[0], c[1]}
		shape := shapes[Choose(image, shapes)]
		f, err := FitTo(image, shape)
		if err != nil || shape != (Size{c[2], c[3]}) || f.Resized != (Size{c[4], c[5]}) {
			t.Errorf("%v: %v resized to %v, want %v", image, shape, f.Resized, c[2:])
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		image, shape Size
		ids          [6]float32
		enlarges     bool
	}{
		{Size{1024, 1024}, Size{1024, 1024}, [6]float32{1024, 1024, 0, 0, 1024, 1024}, false},
		{Size{4000, 3000}, Size{1152, 896}, [6]float32{3000, 4000, 0, 21, 896, 1152}, false},
		{Size{800, 600}, Size{1152, 896}, [6]float32{600, 800, 0, 21, 896, 1152}, true},
		{Size{1000, 3000}, Size{512, 1536}, [6]float32{3000, 1000, 0, 0, 1536, 512}, false},
		{Size{2000, 3001}, Size{1024, 1024}, [6]float32{3001, 2000, 256, 0, 1024, 1024}, false},
	} {
		f, err := FitTo(c.image, c.shape)
		if err != nil || f.TimeIDs() != c.ids || f.Enlarges() != c.enlarges {
			t.Errorf("%v to %v: %+v, %v, %v", c.image, c.shape, f, f.TimeIDs(), err)
		}
		if f.Left+c.shape.Width > f.Resized.Width || f.Top+c.shape.Height > f.Resized.Height {
			t.Errorf("%+v: the crop leaves the image", f)
		}
	}
	if _, err := FitTo(Size{}, Size{1, 1}); err == nil {
		t.Error("an image without pixels is accepted")
	}
	for _, bad := range [][4]int{{0, 64, 128, 64}, {1 << 20, 32, 128, 64}, {1 << 20, 256, 128, 64}, {1 << 20, 256, 512, 0}} {
		if _, err := Resolutions(bad[0], bad[1], bad[2], bad[3]); err == nil {
			t.Errorf("%v accepted", bad)
		}
	}
	for _, s := range SDXL {
		if s.Width%64 != 0 || s.Height%64 != 0 || s.Width*s.Height > 1024*1024+64*1024 || s.Width*s.Height < 900_000 {
			t.Errorf("%v", s)
		}
	}
	if len(SDXL) != 40 || Choose(Size{3, 2}, SDXL) != slices.Index(SDXL, Size{1216, 832}) {
		t.Error(len(SDXL), Choose(Size{3, 2}, SDXL))
	}
}

// A batch is of one shape; an epoch draws no row twice, and another epoch leaves out others.
func TestOrder(t *testing.T) {
	var shape []int16
	for i := range 103 {
		shape = append(shape, []int16{0, 0, 0, 1, 1, -1}[i%6])
	}
	shape = append(shape, 2, 2) // never a batch
	o, err := NewOrder(shape, 3, 4, 7, nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := o.Counts()
	if o.Len() != int64(counts[0]/4*4+counts[1]/4*4) || o.Unused() != 2 {
		t.Fatal(o.Len(), counts, o.Unused())
	}
	seen := map[int]int{}
	var first []int
	for epoch := range int64(40) {
		drawn := map[int]bool{}
		for k := range o.Len() {
			k += epoch * o.Len()
			s, r := o.Shape(k), o.Row(k)
			if int(shape[r]) != s || s != o.Shape(k/4*4) || drawn[r] {
				t.Fatalf("epoch %d, sample %d: row %d of shape %d in a batch of %d, %v", epoch, k, r, shape[r], s, drawn[r])
			}
			drawn[r] = true
			seen[r]++
			if epoch == 0 {
				first = append(first, r)
			}
			for attempt := range 3 {
				if other := o.Instead(k, attempt+1); int(shape[other]) != s {
					t.Fatalf("row %d of shape %d stands in for one of shape %d", other, shape[other], s)
				}
			}
		}
	}
	for r, s := range shape {
		if want := s == 0 || s == 1; want != (seen[r] > 0) {
			t.Errorf("row %d of shape %d: drawn %d times in 40 epochs", r, s, seen[r])
		}
	}
	for _, span := range [][2]int64{{0, 4}, {0, o.Len()}, {8, 100 * o.Len()}, {12, 24}, {4, 4}} {
		var want []int
		for k := span[0]; k < min(span[1], span[0]+3*o.Len()); k++ {
			if s := o.Shape(k); !slices.Contains(want, s) {
				want = append(want, s)
			}
		}
		if got := o.Shapes(span[0], span[1]); !slices.Equal(got, want) {
			t.Errorf("samples %v are of shapes %v, want %v", span, got, want)
		}
	}
	again, err := NewOrder(shape, 3, 4, 7, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k := o.Len() - 1; k >= 0; k-- {
		if r := again.Row(k); r != first[k] {
			t.Errorf("sample %d: row %v, then %v", k, first[k], r)
		}
	}
	other, err := NewOrder(shape, 3, 4, 8, nil)
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for k := range o.Len() {
		if other.Row(k) == first[k] {
			same++
		}
	}
	if same > len(first)/2 {
		t.Error("the seed changes nothing")
	}
	if _, err := NewOrder([]int16{0, 1}, 2, 4, 1, nil); err == nil {
		t.Error("no batch is an order")
	}
	if _, err := NewOrder([]int16{0, 2}, 2, 1, 1, nil); err == nil {
		t.Error("a shape that is not there is accepted")
	}
}

// Rows are drawn as often as their weights say, in batches of one shape.
func TestWeightedOrder(t *testing.T) {
	shape, weights := make([]int16, 60), make([]float64, 60)
	for i := range shape {
		shape[i], weights[i] = int16(i%2), []float64{0, 0.5, 1, 3}[i/2%4]
	}
	o, err := NewOrder(shape, 2, 3, 5, func(row int) float64 { return weights[row] })
	if err != nil {
		t.Fatal(err)
	}
	const epochs = 400
	drawn := make([]int, len(shape))
	for k := range epochs * o.Len() {
		drawn[o.Row(k)]++
	}
	for r, w := range weights {
		if got := float64(drawn[r]) / epochs; got > w+0.1 || got < 0.9*w-0.1 {
			t.Errorf("row %d of weight %g is drawn %g times an epoch", r, w, got)
		}
	}
}
