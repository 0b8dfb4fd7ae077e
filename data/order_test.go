package data

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// fixed is a source of rows without images.
type fixed []Row

func (f fixed) Len() int                    { return len(f) }
func (f fixed) Row(i int) Row               { return f[i] }
func (f fixed) Encoded(int) ([]byte, error) { return nil, nil }
func (f fixed) State() string               { return "" }
func (f fixed) Close() error                { return nil }

func orderOf(t *testing.T, rows []Row, opt OrderOptions) *Order {
	t.Helper()
	o, err := (&Set{source: fixed(rows)}).Order(opt)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func rowsOf(weights ...float32) []Row {
	rows := make([]Row, len(weights))
	for i, w := range weights {
		rows[i] = Row{Key: fmt.Sprint(i), Caption: fmt.Sprint("fine ", i), Kind: fmt.Sprint("kind ", i), Coarse: "coarse", Weight: w}
	}
	return rows
}

// TestOrderVisitsAll: without weights an epoch is a permutation, another one in
// each epoch and for each seed.
func TestOrderVisitsAll(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 64, 65, 1000} {
		o := orderOf(t, rowsOf(slices.Repeat([]float32{1}, n)...), OrderOptions{Seed: 3})
		if o.Len() != int64(n) {
			t.Fatalf("epoch of %d, want %d", o.Len(), n)
		}
		var epochs [3][]int
		for e := range epochs {
			seen := make([]bool, n)
			for k := range n {
				row := o.Row(int64(e*n + k))
				if seen[row] {
					t.Fatalf("%d rows, epoch %d: row %d twice", n, e, row)
				}
				seen[row] = true
				epochs[e] = append(epochs[e], row)
			}
		}
		if n >= 7 && (slices.Equal(epochs[0], epochs[1]) || slices.IsSorted(epochs[0])) {
			t.Errorf("%d rows: epochs are not shuffled", n)
		}
		other := orderOf(t, rowsOf(slices.Repeat([]float32{1}, n)...), OrderOptions{Seed: 4})
		same := 0
		for k := range n {
			if other.Row(int64(k)) == epochs[0][k] {
				same++
			}
		}
		if n >= 64 && same > n/4 {
			t.Errorf("%d rows: seeds 3 and 4 agree at %d places", n, same)
		}
	}
}

// TestOrderWeights: each epoch draws a row ⌊w⌋ or ⌈w⌉ times, w on average.
func TestOrderWeights(t *testing.T) {
	weights := []float32{1, 0.1, 0, 2.5, 0.4, 3, 0.1, 0.1, 0.8, 0}
	o := orderOf(t, rowsOf(weights...), OrderOptions{Seed: 1})
	if o.Len() != 8 {
		t.Fatalf("epoch of %d, want 8", o.Len())
	}
	const epochs = 4000
	total := make([]int, len(weights))
	for e := range int64(epochs) {
		count := make([]int, len(weights))
		for k := range o.Len() {
			count[o.Row(e*o.Len()+k)]++
		}
		for i, n := range count {
			if w := float64(weights[i]); float64(n) < math.Floor(w)-1e-9 || float64(n) > math.Ceil(w)+1e-9 {
				t.Fatalf("epoch %d: row %d of weight %v drawn %d times", e, i, w, n)
			}
			total[i] += n
		}
	}
	for i, n := range total {
		if got, want := float64(n)/epochs, float64(weights[i]); math.Abs(got-want) > 0.03 {
			t.Errorf("row %d: %.3f draws per epoch, want %.3f", i, got, want)
		}
	}
	every := orderOf(t, rowsOf(weights...), OrderOptions{Seed: 1, Unweighted: true})
	if every.Len() != int64(len(weights)) {
		t.Errorf("unweighted epoch of %d", every.Len())
	}
}

// TestOrderPositions: neighbours in an epoch are not neighbours in the file, and
// each place is equally likely.
func TestOrderPositions(t *testing.T) {
	const n, epochs = 32, 6400
	o := orderOf(t, rowsOf(slices.Repeat([]float32{1}, n)...), OrderOptions{Seed: 11})
	var at [n][n]int
	for k := range int64(n * epochs) {
		at[k%n][o.Row(k)]++
	}
	var chi float64
	for _, counts := range at {
		for _, c := range counts {
			d := float64(c) - epochs/n
			chi += d * d / (epochs / n)
		}
	}
	if free := float64((n - 1) * (n - 1)); math.Abs(chi-free) > 6*math.Sqrt(2*free) {
		t.Errorf("chi square %.0f at %.0f degrees of freedom", chi, free)
	}
}

func TestCaptionChoice(t *testing.T) {
	rows := rowsOf(1, 1, 1, 1)
	o := orderOf(t, rows, OrderOptions{Seed: 5, Fine: 2, Kind: 1, Coarse: 1})
	const n = 40000
	count := map[byte]float64{}
	for k := range int64(n) {
		caption := o.Caption(k)
		if caption != o.Caption(k) {
			t.Fatal("caption changes")
		}
		count[caption[0]+caption[1]]++ // "fi", "ki" or "co"
	}
	for level, want := range map[string]float64{"fi": 0.5, "ki": 0.25, "co": 0.25} {
		if got := count[level[0]+level[1]] / n; math.Abs(got-want) > 0.01 {
			t.Errorf("%s: %.3f, want %.3f", level, got, want)
		}
	}
	if got := orderOf(t, rows, OrderOptions{}).Caption(9); got[:4] != "fine" {
		t.Errorf("no probabilities: %q, want the fine caption", got)
	}
	lone := []Row{{Caption: "fine", Coarse: "coarse", Weight: 1}}
	if got := orderOf(t, lone, OrderOptions{Kind: 1}).Caption(0); got != "coarse" {
		t.Errorf("no kind: %q", got)
	}
	lone[0].Coarse = ""
	if got := orderOf(t, lone, OrderOptions{Kind: 1}).Caption(0); got != "fine" {
		t.Errorf("no kind and no coarse caption: %q", got)
	}
}

// TestOrderGolden pins the order: a change here changes what a continued run
// sees.
func TestOrderGolden(t *testing.T) {
	o := orderOf(t, rowsOf(1, 0.5, 1, 2, 0.25, 1, 1, 1.25), OrderOptions{Seed: 42, Fine: 1, Kind: 1, Coarse: 1})
	var got []string
	for k := range int64(12) {
		got = append(got, fmt.Sprintf("%d %s", o.Row(k), o.Caption(k)))
	}
	want := []string{"6 fine 6", "5 fine 5", "3 coarse", "2 kind 2", "0 coarse", "3 coarse",
		"1 fine 1", "7 fine 7", "3 fine 3", "3 kind 3", "2 kind 2", "7 coarse"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestOrderErrors(t *testing.T) {
	for _, opt := range []OrderOptions{{Fine: -1}, {Kind: math.NaN()}, {Coarse: math.Inf(1)}} {
		if _, err := (&Set{source: fixed(rowsOf(1))}).Order(opt); err == nil {
			t.Errorf("%+v accepted", opt)
		}
	}
	if _, err := (&Set{source: fixed(rowsOf(0, 0))}).Order(OrderOptions{}); err == nil {
		t.Error("weights of 0 accepted")
	}
}

// TestListedCaptions: of several fine captions each is drawn as often.
func TestListedCaptions(t *testing.T) {
	o := orderOf(t, []Row{{Caption: "a", Also: []string{"b", "c"}, Weight: 1}}, OrderOptions{Seed: 5})
	seen := map[string]int{}
	for k := range int64(3000) {
		seen[o.Caption(k)]++
	}
	for _, c := range []string{"a", "b", "c"} {
		if seen[c] < 900 || seen[c] > 1100 {
			t.Errorf("%v", seen)
		}
	}
	if got := o.set.Captions(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("%q", got)
	}
}
