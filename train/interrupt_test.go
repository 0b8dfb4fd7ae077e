package train_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train"
	"fewstep/train/monitor"
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

// failing is a reporter whose disk is full.
type failing struct{ compiling func() string }

func (f failing) Update(r monitor.Record) error {
	f.compiling()
	return errors.New("the disk is full")
}

func (failing) Close() error { return nil }

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
	r, err := train.Open(t.Context(), c, train.Options{Dir: dir, Until: "16", Split: true, Backend: rt.Backend, Log: slog.New(slog.DiscardHandler), Progress: &stopAt{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Walk(t.Context()); err != nil { // the data set is encoded now
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	stuck := xlatest.NewStuck(t, rt.Backend)
	if r, err = train.Open(t.Context(), c, train.Options{Dir: dir, Split: true, Backend: stuck, Log: slog.New(slog.DiscardHandler), Progress: failing{stuck.Compiling}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Walk(t.Context()); err == nil || errors.Is(err, train.ErrInterrupted) {
		t.Errorf("%v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
