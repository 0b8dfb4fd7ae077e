package monitor

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A line every five seconds, with the time that is left by what was done since the beginning; none when all is done.
func TestLogProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tell := LogProgress(slog.New(slog.NewTextHandler(&out, nil)), "encoding", "images", 100)
		for done := 100; done <= 220; done++ {
			tell(done, 220)
			time.Sleep(100 * time.Millisecond)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "msg=encoding images=150 of=220 eta=7s") || !strings.Contains(lines[1], "images=200 of=220 eta=2s") {
			t.Errorf("logged\n%s", &out)
		}
	})
}
