package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"fewstep/cluster"
	"fewstep/internal/xla"
	"fewstep/train"
)

// runTogether is run as one of several processes, one on each node. Whatever goes wrong on one of them ends all, with the
// same message and exit code.
func (a *app) runTogether(ctx context.Context, place cluster.Place, path string, o runOptions, unsaved func() bool, opened *atomic.Pointer[train.Run]) error {
	m, err := a.join(ctx, place, &o.cluster)
	if err != nil {
		return err
	}
	defer m.Close()
	if m.Rank() > 0 { // rank 0 tells of the run
		a.quiet = true
		a.log = a.newLogger()
	}
	a.working = m.Working
	a.log = slog.New(working{a.log.Handler(), m.Working})
	err = interruptible(ctx, unsaved, func() error {
		return untilLost(m, func() error {
			config, err := a.recipeOf(ctx, path, o)
			if err == nil {
				err = a.alike(m, config.Hash()[:16], o)
			}
			if err != nil {
				return err
			}
			return a.walk(ctx, config, path, o, m, opened)
		})
	})
	switch {
	case m.Context().Err() != nil:
		err = context.Cause(m.Context())
	case err == nil:
		return nil
	case errors.Is(err, train.ErrInterrupted): // all ranks have agreed on that
		if err = m.Leave(m.Context()); err == nil {
			return refused(train.ErrInterrupted)
		}
	}
	told := refused(err)
	failure := m.Fail(exitCode(told), told)
	out := ofCluster(failure)
	var e *exitError
	if errors.As(told, &e) && e.hint != "" && failure.Rank == m.Rank() {
		out = withHint(out, "%s", e.hint)
	}
	return out
}

// untilLost does work, which may hang for ever where another rank is gone, and ends with the cluster.
func untilLost(m *cluster.Member, work func() error) error {
	done := make(chan error, 1)
	go func() { done <- work() }()
	select {
	case err := <-done:
		return err
	case <-m.Context().Done():
		return context.Cause(m.Context())
	}
}

// alike ends all ranks unless they are to do the same. Devices and plugins are compared as far as they are known before a client
// is made: clients of unlike nodes wait for each other for minutes.
func (a *app) alike(m *cluster.Member, recipe string, o runOptions) error {
	binary, err := binaryDigest()
	if err != nil {
		return err
	}
	plugin, err := a.firstPlugin()
	if err != nil {
		return err
	}
	command := strings.Join([]string{"--devices " + o.devices, "--backend " + a.backend, "--until " + o.until, "--fork " + o.fork, "--from " + o.from}, ", ")
	return m.Same(m.Context(), cluster.Fact{Name: "fewstep's version", Value: readVersion().Version}, cluster.Fact{Name: "fewstep's binary", Value: binary},
		cluster.Fact{Name: "the recipe", Value: recipe}, cluster.Fact{Name: "the command line", Value: command},
		cluster.Fact{Name: "XLA_FLAGS", Value: os.Getenv("XLA_FLAGS")}, cluster.Fact{Name: "the NVIDIA driver", Value: xla.DriverVersion()},
		cluster.Fact{Name: "the number of GPUs", Value: strconv.Itoa(xla.GPUs())}, cluster.Fact{Name: "the plugin", Value: plugin})
}

// firstPlugin is the digest of the plugin that is tried first; "" where there is none.
func (a *app) firstPlugin() (string, error) {
	if c, ok := xla.DefaultSearch().First(a.backend); ok {
		return shortDigest(c.Path)
	}
	return "", nil
}

// spanned compares the ranks' open backends, whose plugin need not be the one that was tried first, and tells which devices they
// drive together: nil where they add up through their hosts' memory, as CPUs do.
func (a *app) spanned(m *cluster.Member, rt *xla.Runtime, devices int) (*xla.Span, error) {
	plugin := ""
	if rt.Plugin != "" {
		var err error
		if plugin, err = shortDigest(rt.Plugin); err != nil {
			return nil, err
		}
	}
	err := m.Same(m.Context(), cluster.Fact{Name: "the backend", Value: rt.Kind + ", " + rt.Version}, cluster.Fact{Name: "the plugin", Value: plugin},
		cluster.Fact{Name: "the number of devices", Value: strconv.Itoa(devices)}, cluster.Fact{Name: "the device", Value: rt.DeviceName()})
	if err != nil || rt.Kind != xla.CUDA {
		return nil, err
	}
	return rt.Span()
}
