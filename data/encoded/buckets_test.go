package encoded

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/images"
	"fewstep/data/scaletest"
	"fewstep/model/weights"
)

// Images of many sizes are encoded in their buckets: the same bytes for any number of processes, each row with the latents
// of its shape, and with the size that its image had.
func TestBuckets(t *testing.T) {
	source := t.TempDir()
	shapes := []bucket.Size{{Width: 8, Height: 16}, {Width: 12, Height: 12}, {Width: 16, Height: 8}}
	const n = PerShard + 50
	size := func(i int) bucket.Size { return bucket.Size{Width: 10 + i*7%23, Height: 10 + i*5%19} }
	for i := range n {
		captioned(t, source, i, images.New(size(i).Width, size(i).Height), "a picture")
	}
	make := func(ranks int) Settings {
		s := settings(t.TempDir(), source)
		s.Shapes, s.Factor, s.Channels, s.Deviations, s.Ranks = shapes, 4, 1, true, ranks
		calls := map[bucket.Size]int{}
		s.Images = func(pixels [][]float32, shape bucket.Size) (mean, deviations [][]float32, err error) {
			calls[shape] += len(pixels)
			for _, v := range pixels {
				if len(v) != 3*shape.Width*shape.Height {
					t.Fatalf("%d values for %v", len(v), shape)
				}
				mean = append(mean, slices.Repeat(v[:1], shape.Width*shape.Height/16))
				deviations = append(deviations, slices.Repeat([]float32{float32(shape.Width)}, shape.Width*shape.Height/16))
			}
			return mean, deviations, nil
		}
		for rank := ranks - 1; rank >= 0; rank-- {
			s.Rank = rank
			if r, err := encode(t, s); err != nil || r.Unfinished != (rank > 0) {
				t.Fatalf("rank %d: %+v, %v", rank, r, err)
			}
		}
		if ranks > 1 { // the first one came last and saw all shards
			if r, err := encode(t, s); err != nil || r.Made != 0 || r.Unfinished {
				t.Fatalf("%+v, %v", r, err)
			}
		}
		return s
	}
	s := make(1)
	if got := scaletest.Digests(t, make(2).Dir); !maps.Equal(got, scaletest.Digests(t, s.Dir)) {
		t.Error("two processes make other bytes than one")
	}
	set, err := data.Open(t.Context(), s.Dir, data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	store, err := Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	used := map[bucket.Size]bool{}
	enlarged, small := 0, 0
	if r, err := encode(t, s); err != nil || r.Made != 0 {
		t.Fatalf("%+v, %v", r, err)
	} else if enlarged = r.Enlarged; !strings.Contains(r.Small, " for ") {
		t.Errorf("%d are enlarged, as %q", enlarged, r.Small)
	}
	for i := range n {
		was, err := set.Size(i)
		if err != nil || was != size(i) {
			t.Fatalf("row %d: size %v, %v, want %v", i, was, err, size(i))
		}
		mean, deviation, shape, err := store.Latent(set.Chosen(i))
		want := shapes[bucket.Choose(size(i), shapes)]
		if v := float32(uint8(i))/127.5 - 1; err != nil || shape != want || len(mean) != want.Width*want.Height/16 || len(deviation) != len(mean) ||
			deviation[0] != float32(want.Width) || mean[0] < v-0.01 || mean[0] > v+0.01 {
			t.Fatalf("row %d: %v %v of %v, %v; want %v of %v", i, mean, deviation, shape, err, v, want)
		}
		used[shape] = true
		if was.Width < want.Width || was.Height < want.Height {
			small++
		}
	}
	if enlarged != small || small == 0 || small == n {
		t.Errorf("%d images are said to be enlarged; %d of %d are smaller than their shape", enlarged, small, n)
	}
	if len(used) != len(shapes) {
		t.Errorf("shapes %v", used)
	}
	f, err := weights.Open(filepath.Join(s.Dir, "latents", store.Latents[0]+".safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := 0
	for _, shape := range shapes {
		z, err := f.Tensor(of(latentsName, shape))
		if err != nil {
			t.Fatal(err)
		}
		rows += z.Shape[0]
	}
	if rows != PerShard {
		t.Errorf("%d rows of a shard's shapes, want %d", rows, PerShard)
	}
	s.Shapes = shapes[:2]
	if r, err := encode(t, s); err != nil || r.Made != 2 {
		t.Errorf("with other buckets %+v, %v", r, err)
	}
}
