package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// A plan's times: the same speed for all phases by samples, or each phase's own by operations.
func TestPlanTimes(t *testing.T) {
	const recipe = "../../configs/sdxl/lora-16gb.yaml"
	planned := func(args ...string) (p planned) {
		t.Helper()
		out, errs, code := runCommand(t, append([]string{"plan", recipe, "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitOK {
			t.Fatalf("code %d, %v: %s", code, err, errs)
		}
		return p
	}
	if p := planned(); p.Seconds != 0 || p.Phases[0].Seconds != 0 || p.Sheets < 10e9 || p.Image != 1<<18 {
		t.Errorf("%g seconds, sheets %d, image %d", p.Seconds, p.Sheets, p.Image)
	}
	same, own := planned("--samples-per-second", "2.5"), planned("--tflops", "100")
	if want := float64(same.Samples) / 2.5; math.Abs(same.Seconds-want) > 1 {
		t.Errorf("%g seconds, want %g", same.Seconds, want)
	}
	var sum float64
	speeds := map[float64]bool{}
	for _, ph := range own.Phases {
		sum += ph.Seconds
		if want := float64(ph.Samples) * ph.Model / 100e12; math.Abs(ph.Seconds-want) > 1 {
			t.Errorf("%s/%s: %g seconds, want %g", ph.Stage, ph.Phase, ph.Seconds, want)
		}
		speeds[ph.Model] = true
	}
	if math.Abs(sum-own.Seconds) > 1 || len(speeds) < 2 {
		t.Errorf("%g seconds in phases, %g in all, %d kinds of sample", sum, own.Seconds, len(speeds))
	}
	out, _, _ := runCommand(t, "plan", recipe, "--brief", "--tflops", "100")
	if !strings.Contains(out, "  time\n") || !strings.Contains(out, " days at ") {
		t.Errorf("%s", out)
	}
	for want, args := range map[string][]string{
		"exclude each other": {"--tflops", "1", "--samples-per-second", "1"}, "--tflops -1": {"--tflops", "-1"}, "--samples-per-second NaN": {"--samples-per-second", "NaN"},
	} {
		if _, errs, code := runCommand(t, append([]string{"plan", recipe}, args...)...); code != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("%v: code %d, %s", args, code, errs)
		}
	}
}

// A plan that knows the speed tells how long a stop may take, and what launchers must give where that is long.
func TestPlanStop(t *testing.T) {
	const recipe = "../../configs/sdxl/lightning.yaml"
	planned := func(args ...string) (p planned, note string) {
		t.Helper()
		out, errs, code := runCommand(t, append([]string{"plan", recipe, "--json"}, args...)...)
		if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitOK {
			t.Fatalf("code %d, %v: %s", code, err, errs)
		}
		for _, n := range p.Notes {
			if strings.HasPrefix(n, "stop: ") {
				note = n
			}
		}
		return p, note
	}
	if p, note := planned(); p.Stop != 0 || note != "" {
		t.Errorf("without a speed: %g, %s", p.Stop, note)
	}
	one, note := planned("--tflops", "200")
	var longest float64
	for _, ph := range one.Phases {
		if ph.Updates > 0 {
			longest = max(longest, ph.Seconds/float64(ph.Updates))
		}
		if critic := ph.Discriminator > 0; ph.Updates > 0 && (critic && (ph.Bound < 0.2 || ph.Bound > 0.6) || !critic && ph.Bound > 0.04) {
			t.Errorf("%s/%s: a stop waits for %.2g of an update", ph.Stage, ph.Phase, ph.Bound)
		}
	}
	if one.Stop < longStop || one.Stop > longest || !strings.Contains(note, "--signal=USR1@") || !strings.Contains(note, "terminationGracePeriodSeconds") {
		t.Errorf("%g of %g s: %s", one.Stop, longest, note)
	}
	many, note := planned("--tflops", "200", "--devices", "8", "--disk", "10")
	if many.Stop > one.Stop/4 || strings.Contains(note, "launchers") || note == "" {
		t.Errorf("on eight: %g s: %s", many.Stop, note)
	}
}
