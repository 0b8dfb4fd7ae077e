package monitor

import (
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestMetrics(t *testing.T) {
	m, err := ServeMetrics("localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ServeMetrics(m.Addr()); err == nil || !strings.Contains(err.Error(), m.Addr()) {
		t.Errorf("address in use: %v", err)
	}
	get := func() string {
		t.Helper()
		resp, err := http.Get("http://" + m.Addr() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		return string(b)
	}
	has := func(body string, lines ...string) {
		t.Helper()
		for _, l := range lines {
			if !strings.Contains(body, l+"\n") {
				t.Errorf("no line %q", l)
			}
		}
	}
	get()
	r := Record{Kind: KindStep, Stage: "8to4", Phase: "lora", Samples: 16, Total: 64, Position: 1016, Took: 250 * time.Millisecond,
		Values: Values{LossD: 1.5, GradNorm: math.Inf(1), "fid/4 steps": 12, "step_seconds": 1, "position_samples": 1}}
	for range 3 {
		if err := m.Update(r); err != nil {
			t.Fatal(err)
		}
		r.Samples += 16
		r.Position += 16
	}
	has(get(),
		`fewstep_loss_d{phase="lora",stage="8to4"} 1.5`,
		`fewstep_grad_norm{phase="lora",stage="8to4"} +Inf`,
		`fewstep_fid_4_steps{phase="lora",stage="8to4"} 12`,
		`fewstep_phase_samples{phase="lora",stage="8to4"} 48`,
		`fewstep_phase_total{phase="lora",stage="8to4"} 64`,
		`fewstep_position_samples 1048`,
		`fewstep_samples_total 32`,
		`fewstep_step_seconds_count 3`,
		`fewstep_step_seconds_sum 0.75`)
	r.Phase, r.Values = "full", Values{Loss: 2}
	m.Update(r)
	body := get()
	has(body, `fewstep_loss{phase="full",stage="8to4"} 2`)
	if strings.Contains(body, `phase="lora"`) {
		t.Error("series of the phase before are still served")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get("http://" + m.Addr() + "/metrics"); err == nil {
		t.Error("still served after Close")
	}
}
