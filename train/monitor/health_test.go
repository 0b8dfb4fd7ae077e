package monitor

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestCheckFinite(t *testing.T) {
	r := Record{Stage: "8to4", Phase: "full", Step: 12, Values: Values{Loss: 1, GradNorm: 0}}
	if err := CheckFinite(r, nil, nil); err != nil {
		t.Errorf("finite: %v", err)
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		r.Values[GradNorm] = bad
		err := CheckFinite(r, []int64{160, 161}, []string{"a cat on yellow", "a dog on yellow"})
		var n *NonFinite
		if !errors.As(err, &n) || n.What != GradNorm || n.Step != 12 {
			t.Fatalf("got %v", err)
		}
		for _, part := range []string{"grad_norm is", "stage 8to4, phase full, step 12", "a dog on yellow", "nothing of it was saved"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q lacks %q", err, part)
			}
		}
	}
	many := make([]int64, 4096)
	if s := CheckFinite(r, many, nil).Error(); !strings.Contains(s, "and 4080 more") || len(s) > 400 {
		t.Errorf("got %q", s)
	}
}

// feed gives n steps with the same loss and accuracy, with noise around them,
// and returns what was found.
func feed(w *Watcher, r *Record, n int, loss, acc float64) (found []*Finding) {
	for range n {
		r.Step++
		noise := 0.01 * math.Sin(float64(r.Step))
		r.Kind, r.Values = KindStep, Values{LossD: loss + noise, Accuracy: math.Min(acc+noise, 1)}
		if f := w.Update(*r); f != nil {
			found = append(found, f)
		}
	}
	return found
}

func TestWatcher(t *testing.T) {
	w := &Watcher{Window: 100, SaturatedLoss: 0.05, SaturatedAcc: 0.99}
	r := &Record{Stage: "4to2", Phase: "lora"}
	none := func(what string, f []*Finding) {
		t.Helper()
		if len(f) != 0 || w.Condition() != Healthy {
			t.Errorf("%s: %v, %v", what, f, w.Condition())
		}
	}
	none("healthy", feed(w, r, 500, 0.9, 0.75))
	none("saturated for a short time", feed(w, r, 60, 0.01, 1))
	none("healthy again", feed(w, r, 100, 0.9, 0.75))
	none("certain but wrong loss", feed(w, r, 200, 0.2, 1))
	none("accurate by half with another loss", feed(w, r, 200, 0.7, 0.5))

	from := r.Step
	found := feed(w, r, 400, 0.01, 1)
	if len(found) != 1 || found[0].Condition != Saturated || w.Condition() != Saturated {
		t.Fatalf("saturated: %v", found)
	}
	if f := found[0]; f.Step <= from || f.Step > from+110 || f.Since < from-10 || f.Loss > 0.05 {
		t.Errorf("%+v, from %d", f, from)
	}
	if s := found[0].String(); !strings.Contains(s, "has collapsed") || !strings.Contains(s, "stage 4to2, phase lora") {
		t.Error(s)
	}
	if found = feed(w, r, 2000, 0.01, 1); len(found) != 2 {
		t.Errorf("reminders: %v", found)
	}
	r.Kind = KindEval
	if w.Update(*r) != nil {
		t.Error("records of another kind are not looked at")
	}
	if found = feed(w, r, 400, 0.9, 0.75); len(found) != 1 || !strings.Contains(found[0].String(), "recovered") {
		t.Errorf("recovered: %v", found)
	}
	if found = feed(w, r, 400, 2*math.Ln2, 0.5); len(found) != 1 || found[0].Condition != AtChance {
		t.Errorf("at chance: %v", found)
	}
	r.Phase = "full"
	r.Step = 0
	none("new phase", feed(w, r, 99, 2*math.Ln2, 0.5))
	r.Values = Values{Loss: 1}
	if w.Update(*r) != nil {
		t.Error("records without a discriminator are not looked at")
	}
	for paired, want := range map[float64]Condition{0.7: Healthy, 0.5: AtChance} { // whatever the signs say
		w := &Watcher{Window: 100, SaturatedLoss: 0.05, SaturatedAcc: 0.99}
		for range 200 {
			r.Values = Values{LossD: 2 * math.Ln2, Accuracy: 1.2 - paired, Paired: paired}
			w.Update(*r)
		}
		if w.Condition() != want {
			t.Errorf("paired accuracy %g: %s", paired, w.Condition())
		}
	}
}
