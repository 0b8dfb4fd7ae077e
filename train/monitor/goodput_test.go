package monitor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Updates that were lost and made again, and pauses, are no goodput.
func TestGoodput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "timing.jsonl")
	if g, err := ReadGoodput(path); err != nil || g != (Goodput{}) || g.Share() != 0 {
		t.Fatalf("%+v, %v", g, err)
	}
	start := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	s, err := OpenStats(filepath.Join(t.TempDir(), "stats.jsonl"), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		position int64
		at       time.Duration // of its end
	}{{10, 2}, {20, 4}, {30, 6}, {20, 16}, {30, 18}, {40, 20}, {50, 22}, {50, 40}} {
		s.now = func() time.Time { return start.Add(row.at * time.Second) }
		if err := s.Update(Record{Kind: KindStep, Position: row.position, Took: 2 * time.Second, Wall: Values{DataWait: 0.5}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	live, err := ReadAccount(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := AppendSampling(path, SamplingTime{Model: "teacher", SecondsPerImage: 1}); err != nil { // the report's, which is no update
		t.Fatal(err)
	}
	g, err := ReadGoodput(path)
	want := Goodput{Wall: 40 * time.Second, Kept: 10 * time.Second, Waited: 5 * time.Second / 2, Updates: 5, Again: 3, Returns: 2}
	if err != nil || g != want || g.Share() != 0.25 {
		t.Errorf("%+v, %v", g, err)
	}
	live.now = func() time.Time { return start.Add(50 * time.Second) }
	if err := live.Update(Record{Kind: KindStep, Position: 50, Took: 4 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := live.Update(Record{Kind: KindPhase, Position: 50}); err != nil { // which is no update
		t.Fatal(err)
	}
	if now, want := live.Goodput(), (Goodput{Wall: 50 * time.Second, Kept: 12 * time.Second, Waited: 2 * time.Second, Updates: 5, Again: 4, Returns: 3}); now != want {
		t.Errorf("while it goes: %+v, want %+v", now, want)
	}
	if text := g.String(); !strings.Contains(text, "25.0 %") || !strings.Contains(text, "3 were made again after 2 returns") || !strings.Contains(text, "waited for data for 25.0 %") {
		t.Error(text)
	}
	if err := os.WriteFile(path, []byte("{\"position\":1}\nnonsense\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadGoodput(path); err == nil || !strings.Contains(err.Error(), "timing.jsonl:2") {
		t.Error(err)
	}
}
