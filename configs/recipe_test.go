package configs

import "testing"

func TestRates(t *testing.T) {
	p := Phase{LR: 2, Decay: DecayLinear}
	for _, c := range [][3]float64{{0, 100, 2}, {25, 100, 1.5}, {100, 100, 0}, {200, 100, 0}, {0, 0, 2}} {
		if got := p.StudentRate(int64(c[0]), int64(c[1])); got != c[2] {
			t.Errorf("after %g of %g: %g, want %g", c[0], c[1], got, c[2])
		}
	}
	p.DiscriminatorLR = 8
	if got := p.DiscriminatorRate(50, 100); got != 4 {
		t.Errorf("discriminator: %g", got)
	}
	p.Decay = DecayConstant
	if got := p.StudentRate(99, 100); got != 2 {
		t.Errorf("constant: %g", got)
	}
}
