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
