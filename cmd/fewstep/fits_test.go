package main

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/train/cost"
)

// A run whose arrays cannot fit the device is refused before it begins; one whose scratch space may not is warned of.
func TestRunFitsDevice(t *testing.T) {
	load := func(set ...string) (*configs.Recipe, error) {
		return configs.Load(filepath.Join("..", "..", "configs", "sdxl", "lora-16gb.yaml"), set...)
	}
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	// 11.17 GB are planned, 10.73 of them arrays.
	for _, want := range []struct {
		limit           int64
		refused, warned bool
	}{{12e9, false, false}, {11e9, false, true}, {10.7e9, true, false}} {
		var log bytes.Buffer
		a := &app{log: slog.New(slog.NewTextHandler(&log, nil))}
		err := a.fits(c, load, cost.Device{Flash: true}, want.limit)
		if refused := err != nil; refused != want.refused || strings.Contains(log.String(), "may not be enough") != want.warned {
			t.Errorf("%d GB: error %v, log %q", want.limit/1e9, err, &log)
		}
		if err == nil {
			continue
		}
		var e *exitError
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		if !strings.Contains(err.Error(), "10.4 GiB of device memory, and there are 10.0 GiB") || e.code != exitRefused || !strings.Contains(e.hint, "and 1.8 GiB of the host's memory) --set train.offload=optimizer") {
			t.Errorf("refused with %v, hint %q", err, e.hint)
		}
	}
}

// Sheets that need more than training does are warned of before the run, not found out after its first phase.
func TestRunWarnsOfSheets(t *testing.T) {
	load := func(set ...string) (*configs.Recipe, error) {
		return configs.Load(filepath.Join("..", "..", "configs", "sdxl", "lora-16gb.yaml"), append(set, "eval.batch=16")...)
	}
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{20e9, 12e9} {
		var log bytes.Buffer
		a := &app{log: slog.New(slog.NewTextHandler(&log, nil))}
		if err := a.fits(c, load, cost.Device{Flash: true}, limit); err != nil {
			t.Fatal(err)
		}
		if warned := strings.Contains(log.String(), "sample sheets") && strings.Contains(log.String(), "eval.batch=1"); warned != (limit < 15e9) {
			t.Errorf("%d GB: log %q", limit/1e9, &log)
		}
	}
}

func TestOffloadFitsHost(t *testing.T) {
	for _, want := range []struct {
		bytes           int64
		refused, warned bool
	}{{20e9, false, false}, {40e9, false, true}, {80e9, true, false}} {
		var log bytes.Buffer
		a := &app{log: slog.New(slog.NewTextHandler(&log, nil))}
		err := a.fitsHost(want.bytes, 64e9, 30e9)
		if refused := err != nil; refused != want.refused || strings.Contains(log.String(), "may not be enough") != want.warned {
			t.Errorf("%d GB: error %v, log %q", want.bytes/1e9, err, &log)
		}
	}
}
