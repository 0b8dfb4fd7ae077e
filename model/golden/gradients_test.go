package golden

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/engine"
	"fewstep/internal/drawn"
)

// fingerprint is what the golden files keep of a parameter's gradient: its norm, and its products with directions that are
// drawn from the parameter's name. An error of relative size e changes each product by about e/√3 of the norm.
type fingerprint []float64

// fingerprints are those of every parameter of a golden model.
func (c comparison) fingerprints(t *testing.T) map[string]fingerprint {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", c.folder, "gradients.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]fingerprint{}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d gradients to compare", len(all))
	}
	return all
}

// compareGradients checks the gradients of Σ output·factor by the named inputs and parameters, where the file has them
// element by element, else by their fingerprints.
func (c comparison) compareGradients(t *testing.T, e *engine.Engine, got []*engine.Array, names []string, want map[string]array, fingerprints map[string]fingerprint) {
	t.Helper()
	largest := 0.0
	for _, d := range fingerprints {
		largest = max(largest, d[0])
	}
	for i, name := range names {
		values, err := e.Floats(got[i])
		if err != nil {
			t.Fatal(err)
		}
		if whole, ok := want[name]; ok {
			if err := close(values, got[i].Shape().Dimensions, whole, gradientTolerance); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		param := strings.TrimPrefix(name, "grad.param.")
		if err := fingerprints[param].close(param, values, largest); err != nil {
			t.Errorf("gradient of %s: %v", param, err)
		}
	}
}

// close compares a gradient with its fingerprint. largest is the largest norm of the model's gradients: what is tiny beside
// it, as that of a key's bias, which is zero but for rounding, need not agree in itself.
func (d fingerprint) close(param string, values []float32, largest float64) error {
	square := 0.0
	for _, v := range values {
		square += float64(v) * float64(v)
	}
	allowed := gradientTolerance*d[0] + 1e-6*largest
	if norm := math.Sqrt(square); !(math.Abs(norm-d[0]) <= allowed) {
		return fmt.Errorf("the norm is %g, want %g", norm, d[0])
	}
	for k, want := range d[1:] {
		got := 0.0
		for i, direction := range drawn.Uniform(fmt.Sprintf("%s.probe%d", param, k), len(values)) {
			got += direction * float64(values[i])
		}
		if !(math.Abs(got-want) <= allowed) {
			return fmt.Errorf("along direction %d it is %g, want %g of a norm of %g", k, got, want, d[0])
		}
	}
	return nil
}

// Fingerprints must see what is wrong: a sign, a transposition, one element.
func TestFingerprintsSeeErrors(t *testing.T) {
	const name, rows, columns = "net.weight", 8, 6
	values := make([]float32, rows*columns)
	for i, v := range drawn.Uniform("values", len(values)) {
		values[i] = float32(v)
	}
	square := 0.0
	for _, v := range values {
		square += float64(v) * float64(v)
	}
	d := fingerprint{math.Sqrt(square)}
	for k := range 3 {
		sum := 0.0
		for i, direction := range drawn.Uniform(fmt.Sprintf("%s.probe%d", name, k), len(values)) {
			sum += direction * float64(values[i])
		}
		d = append(d, sum)
	}
	if err := d.close(name, values, d[0]); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(v []float32){
		"sign":        func(v []float32) { v[7] = -v[7] },
		"one element": func(v []float32) { v[3] *= 1.1 },
		"transposed": func(v []float32) {
			for i := range rows {
				for j := range columns {
					v[j*rows+i] = values[i*columns+j]
				}
			}
		},
	} {
		wrong := slices.Clone(values)
		change(wrong)
		if d.close(name, wrong, d[0]) == nil {
			t.Errorf("%s: not seen", what)
		}
	}
}
