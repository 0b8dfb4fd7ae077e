package main

import (
	"encoding/json"
	"strings"
	"testing"

	"fewstep/internal/xla"
)

// doctor tells the backend, that it computes, and whether optimizer state can lie in the host's memory there.
func TestDoctor(t *testing.T) {
	for _, want := range []struct {
		backend string
		offload bool
	}{{xla.Go, false}, {xla.CPU, true}} {
		if want.backend == xla.CPU && len(xla.DefaultSearch().Candidates(xla.CPU)) == 0 {
			t.Log("no XLA CPU plugin is there")
			continue
		}
		out, errs, code := runCommand(t, "doctor", "--backend", want.backend, "--json")
		var d diagnosis
		if err := json.Unmarshal([]byte(out), &d); err != nil || code != exitOK {
			t.Fatalf("code %d, %v: %s%s", code, err, out, errs)
		}
		if d.Error != "" || d.Chosen == nil || d.Chosen.Kind != want.backend || d.CPUs < 1 || d.Memory.TotalBytes <= 0 {
			t.Fatalf("%s", out)
		}
		if d.Chosen.Offload != want.offload || (d.Chosen.NoOffload == "") != want.offload {
			t.Errorf("%s: offload %v, %q", want.backend, d.Chosen.Offload, d.Chosen.NoOffload)
		}
		out, _, code = runCommand(t, "doctor", "--backend", want.backend)
		said := map[bool]string{true: "possible: train.offload", false: "not possible: optimizer state"}[want.offload]
		if code != exitOK || !strings.Contains(out, "a small program computes right") || !strings.Contains(out, said) {
			t.Errorf("%s: code %d: %s", want.backend, code, out)
		}
	}
	if _, errs, code := runCommand(t, "doctor", "--memory-fraction", "1.5"); code != exitUsage || !strings.Contains(errs, "at most 1") {
		t.Errorf("code %d: %s", code, errs)
	}
	if out, _, code := runCommand(t, "doctor", "--backend", xla.CUDA); code == exitOK && !strings.Contains(out, "cuda") {
		t.Errorf("code %d without a GPU: %s", code, out)
	}
}
