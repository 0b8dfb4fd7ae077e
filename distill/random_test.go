package distill

import (
	"math"
	"slices"
	"testing"
)

// Known answers of Random123's kat_vectors for philox4x32-10.
func TestPhiloxKnownAnswers(t *testing.T) {
	const f = 0xffffffff
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{f, f, f, f}, [2]uint32{f, f}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := Philox4x32(c.counter, c.key); got != c.want {
			t.Errorf("Philox4x32(%x, %x) = %x, want %x", c.counter, c.key, got, c.want)
		}
	}
}

func TestNormalMoments(t *testing.T) {
	const samples, size = 200, 1000
	x := make([]float32, size)
	var m1, m2, m3, m4 float64
	for i := range int64(samples) {
		Normal(x, 7, Noise, i)
		for _, v := range x {
			f := float64(v)
			m1 += f
			m2 += f * f
			m3 += f * f * f
			m4 += f * f * f * f
		}
	}
	const n = samples * size
	for _, c := range []struct {
		name            string
		got, want, wide float64 // wide: 5 standard errors
	}{{"mean", m1 / n, 0, 5 * math.Sqrt(1.0/n)}, {"variance", m2 / n, 1, 5 * math.Sqrt(2.0/n)},
		{"third moment", m3 / n, 0, 5 * math.Sqrt(15.0/n)}, {"fourth moment", m4 / n, 3, 5 * math.Sqrt(96.0/n)}} {
		if math.Abs(c.got-c.want) > c.wide {
			t.Errorf("%s = %g, want %g ± %g", c.name, c.got, c.want, c.wide)
		}
	}
}

// An element depends on seed, purpose, sample and its index, on each of them,
// and on nothing else.
func TestNormalCounters(t *testing.T) {
	draw := func(n int, seed uint64, p Purpose, sample int64) []float32 {
		x := make([]float32, n)
		Normal(x, seed, p, sample)
		return x
	}
	base := draw(64, 5, Noise, 9)
	for n := range 65 {
		if !slices.Equal(draw(n, 5, Noise, 9), base[:n]) {
			t.Fatalf("the first %d elements depend on the length", n)
		}
	}
	others := map[string][]float32{
		"seed": draw(64, 6, Noise, 9), "high seed": draw(64, 5+1<<32, Noise, 9), "purpose": draw(64, 5, EvalNoise, 9),
		"sample": draw(64, 5, Noise, 10), "high sample": draw(64, 5, Noise, 9+1<<32),
	}
	for name, other := range others {
		for i := range base {
			if base[i] == other[i] {
				t.Errorf("element %d is the same under another %s", i, name)
			}
		}
	}
	seen := map[float32]bool{}
	for _, v := range base {
		seen[v] = true
	}
	if len(seen) != len(base) {
		t.Error("elements repeat")
	}
}

// The stream is part of a run's format: it must never change.
func TestStreamsAreFrozen(t *testing.T) {
	x := make([]float32, 4)
	Normal(x, 1, Noise, 2)
	u := Uniform(1, Timestep, 2, 3)
	// The blocks below follow from Philox's definition; the normals from them.
	r := Philox4x32([4]uint32{0, 1, 2, 0}, [2]uint32{1, 0})
	radius := math.Sqrt(-2 * math.Log((float64(r[0])+0.5)/(1<<32)))
	angle := 2 * math.Pi * float64(r[1]) / (1 << 32)
	if want := float32(radius * math.Cos(angle)); math.Abs(float64(x[0]-want)) > 1e-6 {
		t.Errorf("first normal = %g, want %g", x[0], want)
	}
	if want := float32(radius * math.Sin(angle)); math.Abs(float64(x[1]-want)) > 1e-6 {
		t.Errorf("second normal = %g, want %g", x[1], want)
	}
	r = Philox4x32([4]uint32{3, 2, 2, 0}, [2]uint32{1, 0})
	if want := (float64(r[0])*(1<<21) + float64(r[1]>>11)) / (1 << 53); u != want {
		t.Errorf("uniform = %g, want %g", u, want)
	}
}

// The two halves of Box–Muller against the standard library, at the ends, at
// every octant and in between.
func TestBoxMullerParts(t *testing.T) {
	values := []uint32{0, 1, 2, math.MaxUint32, math.MaxUint32 - 1, 0x5A827999, 0xB504F333}
	for i := range uint32(8) {
		values = append(values, i<<29, i<<29-1, i<<29+1)
	}
	for i := range uint32(20_000) {
		values = append(values, i*0x9E3779B9)
	}
	for _, v := range values {
		if got, want := minusTwoLog(v), -2*math.Log((float64(v)+0.5)/(1<<32)); math.Abs(got-want) > 1e-12*want {
			t.Fatalf("minusTwoLog(%#x) = %g, want %g", v, got, want)
		}
		sin, cos := math.Sincos(2 * math.Pi / (1 << 32) * float64(v))
		if c, s := circle(v); math.Abs(c-cos) > 2e-11 || math.Abs(s-sin) > 2e-11 {
			t.Fatalf("circle(%#x) = %g, %g, want %g, %g", v, c, s, cos, sin)
		}
		if x, y := boxMuller(v, v); math.Abs(float64(x)) > 6.78 || math.Abs(float64(y)) > 6.78 {
			t.Fatalf("boxMuller(%#x) = %g, %g", v, x, y)
		}
	}
}

func TestChoiceFrequencies(t *testing.T) {
	weights := []float64{5, 0, 1, 1, 1}
	counts := make([]float64, len(weights))
	const n = 40_000
	for i := range int64(n) {
		k, err := Choice(weights, 3, DiscriminatorLevels, i, 0)
		if err != nil {
			t.Fatal(err)
		}
		counts[k]++
	}
	for i, w := range weights {
		p := w / 8
		if math.Abs(counts[i]/n-p) > 5*math.Sqrt(p*(1-p)/n) {
			t.Errorf("index %d came up %g of %d times, want a share of %g", i, counts[i], n, p)
		}
	}
	for _, bad := range [][]float64{nil, {0, 0}, {-1, 2}, {math.NaN()}, {math.Inf(1)}, {math.MaxFloat64, math.MaxFloat64}} {
		if _, err := Choice(bad, 3, Noise, 0, 0); err == nil {
			t.Errorf("weights %v were accepted", bad)
		}
	}
}

func TestDiscriminatorLevel(t *testing.T) {
	levels := []int{10, 250, 500, 750}
	if at, err := DiscriminatorLevel(nil, nil, 1, 0); at != 0 || err != nil {
		t.Errorf("without levels: %d, %v", at, err)
	}
	if _, err := DiscriminatorLevel(levels, []float64{1}, 1, 0); err == nil {
		t.Error("too few weights were accepted")
	}
	for _, c := range []struct {
		weights []float64
		share   float64 // of the first level
	}{{nil, 0.25}, {[]float64{1, 1, 1, 1}, 0.25}, {[]float64{5, 1, 1, 1}, 0.625}} {
		first := 0.0
		const n = 10_000
		for i := range int64(n) {
			at, err := DiscriminatorLevel(levels, c.weights, 1, i)
			if err != nil || !slices.Contains(levels, at) {
				t.Fatal(at, err)
			}
			if at == 10 {
				first++
			}
		}
		if math.Abs(first/n-c.share) > 0.025 {
			t.Errorf("weights %v: the first level has a share of %g, want %g", c.weights, first/n, c.share)
		}
	}
}

func TestNormalDoesNotAllocate(t *testing.T) {
	x := make([]float32, 1024)
	if n := testing.AllocsPerRun(10, func() { Normal(x, 1, Noise, 3) }); n != 0 {
		t.Errorf("Normal allocates %g times", n)
	}
}

func BenchmarkNormal(b *testing.B) {
	x := make([]float32, 4096)
	i := int64(0)
	for b.Loop() {
		Normal(x, 1, Noise, i)
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/normal")
}

// Names keep their numbers: weights that were drawn by them are drawn again. (FNV-1a of nothing is its offset basis.)
func TestNumberOf(t *testing.T) {
	for name, want := range map[string]int64{"": 14695981039346656037 >> 1, "a": 6319093600277820998} {
		if got := NumberOf(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}
