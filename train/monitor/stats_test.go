package monitor

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestStats(t *testing.T) {
	dir := t.TempDir()
	stats, timing := filepath.Join(dir, "stats.jsonl"), filepath.Join(dir, "timing.jsonl")
	if rs, err := ReadStats(stats); rs != nil || err != nil {
		t.Errorf("missing file: %v, %v", rs, err)
	}
	s, err := OpenStats(stats, timing)
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return time.Unix(1700000000, 0) }
	want := []Record{
		{Kind: KindPhase, Stage: "8to4", Phase: "lora", Total: 32, RunTotal: 64, Values: Values{}},
		{Kind: KindStep, Stage: "8to4", Phase: "lora", Step: 1, Samples: 16, Total: 32, Position: 16, RunTotal: 64,
			Values: Values{Loss: 0.1, "z<": 1e-300, "a": math.Inf(-1), "b": math.Inf(1), "c": 1.0 / 3}, Took: time.Second},
	}
	for _, r := range want {
		if err := s.Update(r); err != nil {
			t.Fatal(err)
		}
	}
	// What was appended is there at once, before Sync and Close.
	b, _ := os.ReadFile(stats)
	const line2 = `{"kind":"step","stage":"8to4","phase":"lora","step":1,"samples":16,"total":32,"position":16,"run_total":64,` +
		`"values":{"a":"-Inf","b":"+Inf","c":0.3333333333333333,"loss":0.1,"z\u003c":1e-300}}` + "\n"
	if !strings.HasSuffix(string(b), "}\n"+line2) {
		t.Errorf("got %s", b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(timing); string(b) != `{"position":16,"time":"2023-11-14T22:13:20Z","step_seconds":1}`+"\n" {
		t.Errorf("timing %s", b)
	}
	want[1].Took = 0
	if got, err := ReadStats(stats); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}

	// A torn last line is ignored by readers and cut off by the next writer.
	for n := 1; n < len(line2); n++ {
		if err := os.WriteFile(stats, append(b, line2[:n]...), 0o666); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadStats(stats); err != nil || len(got) != 2 {
			t.Fatalf("torn at %d: %d records, %v", n, len(got), err)
		}
		s, err := OpenStats(stats, timing)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if now, _ := os.ReadFile(stats); string(now) != string(b) {
			t.Fatalf("torn at %d: left %q", n, now)
		}
	}

	if err := os.WriteFile(stats, append(b, "{\"values\":{\"x\":\"lots\"}}\n"...), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadStats(stats); err == nil || !strings.Contains(err.Error(), stats+":3:") {
		t.Errorf("bad line: %v", err)
	}
	if _, err := OpenStats(filepath.Join(dir, "no", "such"), timing); err == nil {
		t.Error("a missing folder must be an error")
	}
	nan := Values{"x": math.NaN()}
	text, _ := nan.MarshalJSON()
	var back Values
	if err := back.UnmarshalJSON(text); err != nil || !math.IsNaN(back["x"]) {
		t.Errorf("%s became %v, %v", text, back, err)
	}
}

type failing struct{ updates, closes int }

var errFailing = errors.New("failing")

func (f *failing) Update(Record) error { f.updates++; return errFailing }
func (f *failing) Close() error        { f.closes++; return errFailing }

func TestFan(t *testing.T) {
	var a, b failing
	f := Fan(&a, nil, (*Metrics)(nil), &b)
	if err := f.Update(Record{}); !errors.Is(err, errFailing) || b.updates != 1 {
		t.Errorf("%v, %+v", err, b)
	}
	if err := f.Close(); !errors.Is(err, errFailing) || b.closes != 1 {
		t.Errorf("%v, %+v", err, b)
	}
}

func FuzzValues(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":"NaN","c":null}`))
	f.Add([]byte(`{"a":""}`))
	f.Add([]byte(`{"a":"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v Values
		if v.UnmarshalJSON(b) != nil {
			return
		}
		text, err := v.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var back Values
		if err := back.UnmarshalJSON(text); err != nil || len(back) != len(v) {
			t.Fatalf("%s: %v", text, err)
		}
	})
}
