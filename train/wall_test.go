package train

import (
	"errors"
	"testing"
	"time"

	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/train/monitor"

	"github.com/gomlx/compute/dtypes"
)

// card is a device of known speed.
type card struct {
	peak   float64
	memory xla.DeviceMemory
	silent bool // it does not tell its memory
}

func (c card) PeakTFLOPs() float64 { return c.peak }

func (c card) DeviceMemory(int) (xla.DeviceMemory, error) {
	if c.silent {
		return xla.DeviceMemory{}, errors.New("not told")
	}
	return c.memory, nil
}

// What an update tells of speed and memory: 4 samples of 3e12 operations in 2 s are 6 TFLOP/s, a tenth of 60. A device
// that is not known has no share, and one that does not tell its memory has the engine's account.
func TestSpeedAndMemoryOfUpdate(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	if _, err := e.Upload(make([]float32, 256), 256); err != nil {
		t.Fatal(err)
	}
	const live, peak = monitor.MemoryLive, monitor.MemoryPeak
	for name, c := range map[string]struct {
		device Device
		want   monitor.Values
	}{
		"known":   {card{peak: 60, memory: xla.DeviceMemory{InUse: 5, Peak: 7}}, monitor.Values{monitor.TFLOPs: 6, monitor.MFU: 0.1, live: 5, peak: 7}},
		"unknown": {card{silent: true}, monitor.Values{monitor.TFLOPs: 6, live: 1024, peak: 1024}},
		"none":    {nil, monitor.Values{monitor.TFLOPs: 6, live: 1024, peak: 1024}},
	} {
		p := &phase{card: c.device, perSample: 3e12, worker: &worker{Setup: &Setup{ranks: &ranks{each: 1}}, s: &method.Session{Networks: &method.Networks{Engine: e}}}}
		got := p.finishWall(&wall{values: monitor.Values{}}, 4, 2*time.Second)
		for key, v := range c.want {
			if got[key] != v {
				t.Errorf("%s: %s is %g, want %g", name, key, got[key], v)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Two updates that are read at once have the speed of both, and a compilation at the beginning is soon forgotten.
func TestRecentSpeed(t *testing.T) {
	var r recent
	if got := r.add(128, 0); got != 0 {
		t.Errorf("an update in no time: %g/s", got)
	}
	r = nil
	r.add(128, 178*time.Second)
	for range 9 {
		r.add(128, 200*time.Millisecond)
	}
	if got := r.add(128, 400*time.Millisecond); got < 500 || got > 700 {
		t.Errorf("%g/s before the last", got)
	}
	if got := r.add(128, time.Microsecond); got < 500 || got > 800 {
		t.Errorf("%g/s of an update that was ready with the one before", got)
	}
	if got := r.add(128, 30*time.Second); got > 5 || len(r) != 1 {
		t.Errorf("%g/s of %d updates after one of 30 seconds", got, len(r))
	}
}
