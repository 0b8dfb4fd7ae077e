package main

import (
	"context"
	"log/slog"
)

// working is a log whose lines of progress, which have a time left ("eta"), also tell the other ranks of a cluster that this
// one works: they are told where nothing is shown, too.
type working struct {
	slog.Handler
	tell func(doing string)
}

func (w working) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || w.Handler.Enabled(ctx, level)
}

func (w working) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		progress := a.Key == "eta"
		if progress {
			w.tell(r.Message)
		}
		return !progress
	})
	if !w.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return w.Handler.Handle(ctx, r)
}

func (w working) WithAttrs(attrs []slog.Attr) slog.Handler {
	return working{w.Handler.WithAttrs(attrs), w.tell}
}

func (w working) WithGroup(name string) slog.Handler {
	return working{w.Handler.WithGroup(name), w.tell}
}
