package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

// Lines of progress are told to the other ranks, on ranks that show nothing too; other lines say nothing of work that goes on.
func TestProgressIsWork(t *testing.T) {
	for level, shown := range map[slog.Level]int{slog.LevelInfo: 4, slog.LevelError: 0} {
		var out strings.Builder
		var told []string
		log := slog.New(working{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}), func(doing string) { told = append(told, doing) }})
		log.Info("indexing the data set", "shards", 3, "of", 9, "eta", time.Minute)
		log.With("stage", "8").WithGroup("g").Info("encoding", "images", 64, "of", 224, "eta", 2*time.Second)
		log.Info("exported", "file", "x")
		log.Warn("the file system does not answer: trying again")
		if !slices.Equal(told, []string{"indexing the data set", "encoding"}) || strings.Count(out.String(), "\n") != shown {
			t.Errorf("level %v: told %q, shown:\n%s", level, told, out.String())
		}
	}
}
