package report

import (
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	distance, score := Metric{Name: "FD"}, Metric{Name: "CLIP score", Higher: true}
	row := func(v, low, high float64) Row { return Row{Value: v, Low: low, High: high} }
	for _, c := range []struct {
		m    Metric
		a, b Row
		want Verdict
	}{
		{distance, row(1, 0.9, 1.1), row(2, 1.8, 2.2), ClearlyBetter},
		{distance, row(1, 0.9, 1.9), row(2, 1.8, 2.2), Better},
		{distance, row(1, 0.9, 1.8), row(2, 1.8, 2.2), Better}, // touching
		{distance, row(2, 1.8, 2.2), row(1, 0.9, 1.1), ClearlyWorse},
		{distance, row(2, 1.0, 2.2), row(1, 0.9, 1.1), Worse},
		{distance, row(1, 0.9, 1.1), row(1, 0.9, 1.1), Worse}, // equal is not better
		{distance, row(1, nan, nan), row(9, 8.9, 9.1), Better},
		{distance, row(9, nan, nan), row(1, nan, nan), Worse},
		{score, row(25, 24.5, 25.5), row(23, 22.5, 23.5), ClearlyBetter},
		{score, row(23, 22.5, 23.5), row(25, 24.5, 25.5), ClearlyWorse},
	} {
		if got := Compare(c.m, c.a, c.b); got != c.want {
			t.Errorf("%s: %v against %v: %s, want %s", c.m.Name, c.a, c.b, got.Words(), c.want.Words())
		}
	}
}

// TestPairedVerdict: rows made from the same noise are told apart by the interval of their difference, whether or not
// their own intervals touch.
func TestPairedVerdict(t *testing.T) {
	distance := Metric{Name: "FD"}
	row := func(v, low, high float64, influences ...float32) Row {
		return Row{Value: v, Low: low, High: high, Samples: 4, Influences: influences}
	}
	a := row(1, 0.5, 1.5, 0.5, -0.5, 0.5, -0.5)
	for _, c := range []struct {
		b    Row
		want Verdict
	}{
		{row(1.2, 0.7, 1.7, 0.5, -0.4, 0.4, -0.5), ClearlyBetter}, // ± 0.069
		{row(0.8, 0.3, 1.3, 0.5, -0.4, 0.4, -0.5), ClearlyWorse},
		{row(1.2, 0.7, 1.7, -0.5, 0.5, -0.5, 0.5), Better}, // ± 0.98: the other way round
		{row(2.2, 1.7, 2.7), ClearlyBetter},                // not paired
		{row(1.2, 0.7, 1.7), Better},
	} {
		if got := Compare(distance, a, c.b); got != c.want {
			t.Errorf("against %+v: %s, want %s", c.b, got.Words(), c.want.Words())
		}
	}
	if d, ok := a.difference(row(1.2, 0.7, 1.7, 0.5, -0.4, 0.4, -0.5)); !ok || math.Abs(d.Value+0.2) > 1e-12 || math.Abs(d.High-d.Low-2*1.959964*0.0353553) > 1e-4 {
		t.Errorf("difference %+v", d)
	}
}

// At 4 calls the rivals are 4 unguided and 2 guided steps; 4 guided steps are
// 8 calls and only there for orientation.
func TestStepTableRivals(t *testing.T) {
	fd := func(model string, steps, calls int, kind Kind, v float64) Row {
		return Row{model, steps, calls, kind, "FD", "mini", v, v - 0.1, v + 0.1, 512, nil}
	}
	r := &Report{Title: "x", Rows: []Row{
		fd("real", 0, 0, Real, 0.2), fd("teacher", 32, 64, Teacher, 1),
		fd("teacher", 4, 8, Undistilled, 1.1), fd("teacher", 4, 4, Undistilled, 2), fd("teacher", 2, 4, Undistilled, 1.6), fd("teacher", 2, 2, Undistilled, 3),
		fd("4step_lora", 4, 4, LoRA, 1.5), fd("4step_unet", 4, 4, Full, 1.2), fd("8step_unet", 8, 8, Full, 1.05),
	}}
	tables := r.stepTables()
	if len(tables) != 2 || tables[0].Steps != 8 || tables[1].Steps != 4 {
		t.Fatalf("tables %+v", tables)
	}
	m := r.metricsInUse()[0]
	verdict, ours, theirs := tables[1].judge(m, r.opponents()[0])
	if verdict != ClearlyBetter || ours.Model != "4step_unet" || theirs.Steps != 2 || theirs.Value != 1.6 {
		t.Errorf("4 calls: %s, %+v against %+v", verdict.Words(), ours, theirs)
	}
	if len(tables[1].Same) != 4 || tables[1].Same[0].Kind != Full || len(tables[1].Others) != 2 || len(tables[1].Floor) != 1 {
		t.Errorf("4 calls: %d same, %d others, %d floor", len(tables[1].Same), len(tables[1].Others), len(tables[1].Floor))
	}
	if verdict, _, theirs := tables[0].judge(m, r.opponents()[0]); verdict != Better || theirs.Value != 1.1 {
		t.Errorf("8 calls: %s against %+v", verdict.Words(), theirs)
	}
	want := []headlineView{{"the undistilled teacher", []headlineMetric{{"FD [mini]", []headlinePart{{"good", "✓", "clearly better at 4 calls"}, {"mid", "≈", "better, within uncertainty at 8 calls"}}}}}}
	if got := r.headline(); !reflect.DeepEqual(got, want) {
		t.Errorf("headline %q, want %q", got, want)
	}
}

func TestSignificant(t *testing.T) {
	for _, c := range []struct {
		v, low, high float64
		want         string
	}{
		{0.87654, 0.83, 0.92, "0.877"}, {25.4321, 25.1, 25.8, "25.43"}, {123.456, 80, 160, "123"},
		{0.0004567, nan, nan, "0.000457"}, {18.4934, nan, nan, "18.49"}, {0, nan, nan, "0"}, {5, 5, 5, "5.000"},
	} {
		if got := Significant(c.v, c.low, c.high); got != c.want {
			t.Errorf("%v in [%v, %v]: %q, want %q", c.v, c.low, c.high, got, c.want)
		}
	}
}

func TestDiscriminatorHealth(t *testing.T) {
	flat := func(v float64) []Point {
		out := make([]Point, 40)
		for i := range out {
			out[i] = Point{int64(i), v}
		}
		return out
	}
	recovered := append(flat(1)[:20:20], flat(0.7)[:20]...)
	for _, c := range []struct {
		loss, accuracy []Point
		want           string
	}{
		{flat(1.386), flat(0.5), "at chance"}, {flat(1.1), flat(0.7), "balanced"}, {flat(0.4), flat(0.93), "winning"},
		{flat(0.01), flat(1), "collapsed"}, {nil, flat(1), "collapsed"}, {nil, nil, "unknown"}, {nil, recovered, "balanced"},
		{nil, flat(nan), "unknown"},
	} {
		if got := DiscriminatorHealth(c.loss, c.accuracy, nil, nil); got.State != c.want {
			t.Errorf("got %+v, want %s", got, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	row := func(metric string, samples int) Row {
		return Row{metric, 8, 8, Full, metric, "mini", 1, nan, nan, samples, nil}
	}
	for _, c := range []struct {
		rows []Row
		want []string
	}{
		{[]Row{row("FD", 2048)}, []string{}},
		{[]Row{row("FD", 512)}, []string{"Few samples (512) for FD [mini]"}},
		{[]Row{row("CLIP score", 512)}, []string{}},
		{[]Row{row("FD", 4096), {"b", 4, 4, Full, "FD", "mini", 1, nan, nan, 8192, nil}}, []string{"Different sample counts for FD [mini] (4096 to 8192)"}},
	} {
		got := (&Report{Rows: c.rows}).warnings()
		if len(got) != len(c.want) {
			t.Errorf("%+v: %q, want %q", c.rows, got, c.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%+v: %q, want %q", c.rows, got[i], c.want[i])
			}
		}
	}
}
