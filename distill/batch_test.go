package distill

import (
	"math"
	"reflect"
	"testing"
)

// A sample is the same in any batch, and other samples are not.
func TestBatchBoundariesDoNotMatter(t *testing.T) {
	s, c := SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewSampler(s, c, steps[len(steps)-1])
	if err != nil {
		t.Fatal(err)
	}
	whole, err := p.Batch(1000, 64)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 64 {
		one, err := p.Batch(1000+int64(i), 1)
		if err != nil {
			t.Fatal(err)
		}
		if one.T[0] != whole.T[i] || one.TNext[0] != whole.TNext[i] || one.StudentA[0] != whole.StudentA[i] {
			t.Errorf("sample %d depends on its batch", i)
		}
	}
	if other, err := p.Batch(2000, 64); err != nil || reflect.DeepEqual(other.T, whole.T) {
		t.Error("other samples have the same timesteps", err)
	}
}

// t is uniform over the student's timesteps.
func TestTimestepsAreUniform(t *testing.T) {
	s, c := SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	for _, step := range []Step{steps[3], steps[11]} {
		p, err := NewSampler(s, c, step)
		if err != nil {
			t.Fatal(err)
		}
		b, err := p.Batch(0, n)
		if err != nil {
			t.Fatal(err)
		}
		counts := map[int]float64{}
		for _, at := range b.T {
			counts[at]++
		}
		share := 1 / float64(len(p.Timesteps()))
		for _, at := range p.Timesteps() {
			if math.Abs(counts[at]/n-share) > 5*math.Sqrt(share*(1-share)/n) {
				t.Errorf("stage %s: t = %d in %g of %d samples", step.StageName, at, counts[at], n)
			}
		}
	}
}

func TestSamplerRefuses(t *testing.T) {
	s, c := SDXLSchedule(), mustParse(t, minimal)
	steps, err := Plan(c, Epsilon)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSampler(s, c, steps[1]); err == nil {
		t.Error("a merge draws batches")
	}
	last := steps[len(steps)-1]
	c.Stages[last.Stage].NoiseLevels[0] = 1001
	if _, err := NewSampler(s, c, last); err == nil {
		t.Error("a noise level beyond T was accepted")
	}
	c.Stages[0].Timesteps = []int{2000}
	if _, err := NewSampler(s, c, steps[0]); err == nil {
		t.Error("a timestep beyond T was accepted")
	}
}
