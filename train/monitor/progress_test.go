package monitor

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// ladder feeds two phases at 8 samples per second.
func ladder(t *testing.T, p *Progress, now *time.Time) {
	t.Helper()
	position := int64(0)
	for _, phase := range []string{"lora-cond", "full"} {
		r := Record{Kind: KindPhase, Stage: "8to4", Phase: phase, Total: 160, Position: position, RunTotal: 320}
		if err := p.Update(r); err != nil {
			t.Fatal(err)
		}
		for i := int64(1); i <= 10; i++ {
			*now = now.Add(2 * time.Second)
			position += 16
			r.Kind, r.Step, r.Samples, r.Position = KindStep, i, 16*i, position
			r.Values = Values{LossD: 1.5, LossG: 0.693147, Accuracy: 0.5, Gap: -0.25, "other": 3}
			if err := p.Update(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestProgressLines(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1700000000, 0)
	p := NewProgress(&out, StyleAuto, 6*time.Second)
	p.now = func() time.Time { return now }
	ladder(t, p, &now)
	const values = " loss_d 1.5 loss_g 0.6931 acc 0.5 gap -0.25\n"
	want := "8to4 lora-cond 0/160 0%\n" +
		"8to4 lora-cond 48/160 30% 8/s eta 14s (run 34s)" + values +
		"8to4 lora-cond 96/160 60% 8/s eta 8s (run 28s)" + values +
		"8to4 lora-cond 144/160 90% 8/s eta 2s (run 22s)" + values +
		"8to4 lora-cond 160/160 100% 8/s (run 20s)" + values +
		"8to4 full 0/160 0%\n" +
		"8to4 full 48/160 30% 8/s eta 14s" + values +
		"8to4 full 96/160 60% 8/s eta 8s" + values +
		"8to4 full 144/160 90% 8/s eta 2s" + values +
		"8to4 full 160/160 100% 8/s" + values
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

// Speed and memory are the last step's, the parts those of the last step in which they were measured in this phase.
func TestProgressShowsSpeed(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, StyleLines, time.Nanosecond)
	now := time.Unix(1700000000, 0)
	p.now = func() time.Time { now = now.Add(time.Second); return now }
	measured := Values{TFLOPs: 210, MFU: 0.212, MemoryPeak: 38e9, DataSeconds: 0.01, TeacherSeconds: 0.1, DiscriminatorSeconds: 0.15, StudentSeconds: 0.19, UpdateSeconds: 0.05}
	for i, r := range []Record{
		{Phase: "b", Samples: 1, Wall: measured},
		{Phase: "b", Samples: 2, Wall: Values{TFLOPs: 220, MemoryPeak: 39e9, GoodputNow: 0.931, Returns: 2}},
		{Phase: "c", Samples: 1},
	} {
		r.Kind, r.Stage, r.Total, r.Position, r.RunTotal = KindStep, "a", 10, int64(i), 9
		if err := p.Update(r); err != nil {
			t.Fatal(err)
		}
	}
	const split = " data 2% teacher 20% disc 30% student 38% update 10%\n"
	want := []string{"a b 1/10 10% 210 TFLOP/s mfu 21% mem 38 GB" + split, " 220 TFLOP/s mem 39 GB goodput 93%" + split, "a c 1/10 10%\n"}
	lines := strings.SplitAfter(out.String(), "\n")
	if len(lines) != 4 || lines[0] != want[0] || !strings.HasSuffix(lines[1], want[1]) || lines[2] != want[2] {
		t.Errorf("got\n%swant the ends\n%s", &out, strings.Join(want, ""))
	}
}

// A phase that ends before its total, or a run that is stopped, still shows
// its last record.
func TestProgressShowsTheLastRecord(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, StyleLines, time.Hour)
	for i := range int64(3) {
		if err := p.Update(Record{Kind: KindStep, Stage: "a", Phase: "b", Samples: i, Total: 9, Position: i}); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	if !strings.Contains(out.String(), "a b 2/9 22%") {
		t.Errorf("got %s", &out)
	}
}

// What goes on after its total, as the last bytes of a number of megabytes do, is shown once.
func TestProgressEndsOnce(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, StyleLines, time.Hour)
	for i := range int64(50) {
		if err := p.Update(Record{Kind: KindStep, Stage: "a", Phase: "b", Samples: min(i, 9), Total: 9, Position: i}); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	if n := strings.Count(out.String(), "\n"); n != 2 || !strings.Contains(out.String(), "a b 9/9 100%") {
		t.Errorf("got %s", &out)
	}
}

func TestProgressJSON(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1700000000, 0)
	p := NewProgress(&out, StyleJSON, 6*time.Second)
	p.now = func() time.Time { return now }
	ladder(t, p, &now)
	dec := json.NewDecoder(&out)
	var rows []progressRow
	for {
		var row progressRow
		if err := dec.Decode(&row); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	if len(rows) != 10 {
		t.Fatalf("%d rows", len(rows))
	}
	if r := rows[1]; r.Stage != "8to4" || r.Samples != 48 || r.Rate != 8 || r.ETA != 14 || r.RunETA != 34 || r.Values[Gap] != -0.25 || r.Time.Unix() != 1700000006 {
		t.Errorf("%+v", r)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestProgressBar(t *testing.T) {
	var out safeBuffer
	now := time.Unix(1700000000, 0)
	p := NewProgress(&out, StyleBar, 0)
	p.now = func() time.Time { return now }
	if _, err := io.WriteString(p.Writer(), "a warning\n"); err != nil {
		t.Error(err)
	}
	ladder(t, p, &now)
	for _, part := range []string{"a warning\n", "8to4 lora-cond 160/160 100% 8/s (run 20s) loss_d 1.5", "8to4 full 160/160 100%"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q lacks %q", out.String(), part)
		}
	}
	if i, j := strings.LastIndex(out.String(), "lora-cond 160/160"), strings.Index(out.String(), "8to4 full"); i > j {
		t.Errorf("the ended phase is drawn after the next:\n%s", out.String())
	}
	if _, err := io.WriteString(p.Writer(), "after the end\n"); err != nil || !strings.HasSuffix(out.String(), "after the end\n") {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 59600 * time.Millisecond: "1m00s", 185 * time.Second: "3m05s",
		2*time.Hour + 7*time.Minute: "2h07m", 76 * time.Hour: "3d04h",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
