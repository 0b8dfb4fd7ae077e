package train

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/train/rundir"
)

// Encoding that is killed anywhere goes on where it can be sure of what is there, and ends in the same bytes; a later
// process makes nothing again.
func TestEncodedGoesOn(t *testing.T) {
	const n, size = 3*chunk + 5, 3
	record := func(i int) []float32 { return []float32{float32(i), -float32(i) / 3, float32(math.Inf(1))} }
	var made []int
	fill := func(first, end int) (out [][]float32, err error) {
		for i := first; i < end; i++ {
			made, out = append(made, i), append(out, record(i))
		}
		return out, nil
	}
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	if err := encode(t.Context(), whole, n, size, fill); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(whole)
	if err != nil || len(want) != 4*n*size {
		t.Fatalf("%d bytes, %v", len(want), err)
	}
	sums, err := os.ReadFile(whole + sumsSuffix)
	if err != nil || len(sums) != 4*32 {
		t.Fatalf("%d bytes of digests, %v", len(sums), err)
	}
	for _, c := range []struct{ bytes, sums, flip, again int }{ // what a killed process left, and the record it is made again from
		{0, 0, -1, 0}, {5, 0, -1, 0}, {12 * chunk, 0, -1, 0}, {12*chunk + 1, 32, -1, chunk}, {12 * 2 * chunk, 32, -1, chunk}, {12*3*chunk - 1, 96, -1, 2 * chunk},
		{12 * 3 * chunk, 96, -1, 3 * chunk}, {len(want) - 1, 128, -1, 3 * chunk}, {len(want), 127, -1, 3 * chunk}, {len(want) + 100, 96, -1, 3 * chunk},
		{12 * 3 * chunk, 96, 0, 0}, {12 * 3 * chunk, 96, 12*chunk + 7, chunk}, {12 * 3 * chunk, 96, 12*3*chunk - 1, 2 * chunk}, // a byte changed since
		{12 * 3 * chunk, 0, -1, 0}, // begun by a version without digests
	} {
		path := filepath.Join(dir, "broken")
		left := append(slices.Clone(want), make([]byte, 200)...)[:c.bytes]
		if c.flip >= 0 {
			left[c.flip] ^= 1
		}
		if err := errors.Join(os.WriteFile(path, left, 0o666), os.WriteFile(path+sumsSuffix, sums[:c.sums], 0o666)); err != nil {
			t.Fatal(err)
		}
		made = nil
		if err := encode(t.Context(), path, n, size, fill); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !slices.Equal(got, want) {
			t.Errorf("after %d bytes: %d bytes that differ, %v", c.bytes, len(got), err)
		}
		if made[0] != c.again {
			t.Errorf("after %d bytes, records are made again from %d on", c.bytes, made[0])
		}
	}

	// A byte that changes on the disk while a later chunk is made is found before the file is done.
	path, flipped := filepath.Join(dir, "while"), false
	err = encode(t.Context(), path, n, size, func(first, end int) ([][]float32, error) {
		if first == 2*chunk && !flipped {
			flipped = true
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0xee}, 12*chunk+1); err != nil {
				return nil, err
			}
		}
		return fill(first, end)
	})
	if got, rerr := os.ReadFile(path); err != nil || rerr != nil || !flipped || !slices.Equal(got, want) {
		t.Errorf("flipped %v: %v, %v", flipped, err, rerr)
	}

	d, err := rundir.Open(filepath.Join(dir, "run"), []byte("a: 1\n"), rundir.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r := &Setup{Dir: d, ranks: &ranks{}}
	full := errors.New("the disk is full")
	if _, err := r.encoded(t.Context(), "x.f32", n, size, func(first, end int) ([][]float32, error) {
		if first >= 2*chunk {
			return nil, full
		}
		return fill(first, end)
	}); !errors.Is(err, full) {
		t.Fatal(err)
	}
	made = nil
	for range 2 { // the second time nothing is made
		x, err := r.encoded(t.Context(), "x.f32", n, size, fill)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{0, 1, chunk, n - 1} {
			head, tail := make([]float32, 1), make([]float32, size-1)
			if err := x.read(i, head, tail); err != nil || !slices.Equal(append(head, tail...), record(i)) {
				t.Errorf("record %d is %v and %v, %v", i, head, tail, err)
			}
		}
		if x.read(n) == nil {
			t.Error("a record that is not there was read")
		}
		if err := x.close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(made) != n-2*chunk || made[0] != 2*chunk {
		t.Errorf("%d records were made, from %d on", len(made), made[0])
	}
	if problems, err := rundir.Check(d.Path()); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
	// A byte that changed since is found by the next process, and the file made again.
	d.Close()
	if d, err = rundir.Open(filepath.Join(dir, "run"), []byte("a: 1\n"), rundir.Lineage{}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	told := 0
	d.Told = func(string) { told++ }
	path = d.ArtifactPath(rundir.Encoded, "x.f32")
	broken := slices.Clone(want)
	broken[len(broken)/2] ^= 1
	if err := os.WriteFile(path, broken, 0o666); err != nil {
		t.Fatal(err)
	}
	r.Dir, made = d, nil
	x, err := r.encoded(t.Context(), "x.f32", n, size, fill)
	if err != nil {
		t.Fatal(err)
	}
	x.close()
	if got, err := os.ReadFile(path); err != nil || !slices.Equal(got, want) || told != 1 || len(made) != n {
		t.Errorf("after a changed byte: %v, told %d times, %d records made", err, told, len(made))
	}
	if problems, err := rundir.Check(d.Path()); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
	// Another number of records is not read as if it were this one, and records of a wrong size are refused.
	if _, err := r.encoded(t.Context(), "x.f32", n+1, size, fill); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("%v", err)
	}
	if _, err := r.encoded(t.Context(), "y.f32", n, size+1, fill); err == nil || !strings.Contains(err.Error(), "record 0 has 3 values") {
		t.Errorf("%v", err)
	}
}
