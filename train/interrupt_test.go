package train_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train"
)

// A run that is asked to stop while a program compiles ends, and so does closing it, though the compilation goes on: of the
// encoders, of the first update, and ahead of later phases. The same command continues.
func TestRunInterruptedWhileCompiling(t *testing.T) {
	recipe := with(t, tiny(t), everyKind)
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	for name, set := range map[string]string{"encoding before": "16", "encoding while it trains": "0"} {
		c, err := configs.Load(recipe, "data.encode_ahead="+set)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "run")
		stuck := xlatest.NewStuck(t, rt.Backend)
		ctx, stop := context.WithCancel(t.Context())
		r, err := train.Open(ctx, c, train.Options{Dir: dir, Split: true, Backend: stuck, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() {
			_, err := r.Walk(ctx)
			ended <- errors.Join(err, r.Close())
		}()
		stuck.Compiling()
		stop()
		if err := <-ended; !errors.Is(err, train.ErrInterrupted) {
			t.Errorf("%s: %v", name, err)
		}
		walkOn(t, rt.Backend, c, dir, "16", 0)
	}
}

// An error does not wait for what is compiled ahead.
func TestErrorWaitsForNoCompilation(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	c, err := configs.Load(tiny(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	walkOn(t, rt.Backend, c, dir, "16", 0)
	stuck := xlatest.NewStuck(t, rt.Backend)
	full := errors.New("the disk is full")
	r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Split: true, Backend: stuck, Log: slog.New(slog.DiscardHandler),
		Finished: func(context.Context, *train.Run, distill.Step) error { stuck.Compiling(); return full }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Walk(t.Context()); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
