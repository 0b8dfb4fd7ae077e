// Package bench times one distillation step on random weights and inputs, with the yardstick's network, work and
// JSON keys (bench/torch_baseline.py): it times, it does not train well.
package bench

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"fewstep/configs"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/train/cost"

	"github.com/gomlx/compute/dtypes"
)

// Steps that can be timed: those of the yardstick, and the VAE's two directions.
var Steps = []string{"forward", "mse-lora", "mse-full", "adv-lora", "adv-full", "vae-encode", "vae-decode"}

// Options of a measurement.
type Options struct {
	Preset, Step string
	Batch, Rank  int          // Batch: samples of a micro-batch, over all devices
	Accumulate   int          // micro-batches of a training step; 0 = 1
	Devices      int          // that train together; 0 = 1
	Reduce       dtypes.DType // in which they add up gradients
	Apart        bool         // they do so by programs of their own: see engine.Group.Overlap
	Bucket       int64        // in MiB, of what they add up at once: see engine.Group.Bucket
	Iters        int
	Side         int    // of the latents; 0 = the preset's
	Critic       string // what of an adversarial step's discriminator is trained: full, or lora = adapters over the teacher
	Moments      dtypes.DType
	Profile      string    // file for a recording of one more step; "" = none
	Summary      io.Writer // where the recording is summed up
	PeakTFLOPs   float64   // the device's, to tell the share of it that was reached; 0 = from the device's name
}

// Result has the keys of the yardstick's JSON line, and more.
type Result struct {
	What        string   `json:"what"`
	Device      string   `json:"device"`
	Preset      string   `json:"preset"`
	Step        string   `json:"step"`
	Batch       int      `json:"batch"` // of a micro-batch, over all devices
	Accumulate  int      `json:"accumulate"`
	Devices     int      `json:"devices"`
	Reduce      string   `json:"reduce"`
	Apart       bool     `json:"reduce_apart,omitempty"`
	Bucket      int64    `json:"reduce_bucket,omitempty"`
	Shard       string   `json:"shard"`
	Compute     string   `json:"compute"`
	Frozen      string   `json:"frozen"`
	Critic      string   `json:"critic"`
	Moments     string   `json:"moments"`
	Offload     string   `json:"offload"` // what is in the host's memory: none, or optimizer
	Granularity int      `json:"granularity"`
	Calls       int      `json:"calls"`
	Split       bool     `json:"split"`
	Sites       bool     `json:"sites"`
	FirstS      float64  `json:"first_s"`
	MedianMS    float64  `json:"median_ms"`
	MinMS       float64  `json:"min_ms"`
	HostMS      float64  `json:"host_ms"` // median time in which the host had queued a step; where it is near median_ms, the host is what takes the time
	SamplesPS   float64  `json:"samples_per_s"`
	PeakGB      *float64 `json:"peak_gb"`    // of the fullest device, in units of 1e9 bytes; null where they keep no figures
	ArraysGB    float64  `json:"arrays_gb"`  // the engine's own account: arrays, and a program's scratch space
	PlannedGB   float64  `json:"planned_gb"` // the same as a dry engine foresees it
	HostGB      float64  `json:"host_gb"`    // most of the host's memory that offloaded state took
	PlannedHost float64  `json:"planned_host_gb"`
	SetupS      float64  `json:"setup_s"`   // weights and inputs
	CompileS    float64  `json:"compile_s"` // in which at least one program was being compiled
	Programs    int      `json:"programs"`
	Cached      int      `json:"cached"` // programs that came from the folder of compiled programs
	Runs        int      `json:"runs"`   // programs run in a step
	Parameters  int      `json:"parameters"`
	TFLOP       float64  `json:"tflop"` // of a step
	TFLOPs      float64  `json:"tflop_per_s"`
	MFU         *float64 `json:"mfu"` // null where the device's peak is not known
	FLOPs       string   `json:"flop_count"`
	XLAFlags    string   `json:"xla_flags"`      // the compiler's settings beside its defaults
	Idle        *float64 `json:"idle,omitempty"` // share of the recorded step in which the device did nothing
}

// Run times one step.
func Run(rt *xla.Runtime, e *engine.Engine, o Options) (*Result, error) {
	p, ok := Presets[o.Preset]
	if !ok {
		return nil, fmt.Errorf("unknown preset %q: choose mini or sdxl", o.Preset)
	}
	if o.Side > 0 {
		p.Side = o.Side
	}
	flop, err := flops(p, o)
	if err != nil {
		return nil, err
	}
	if err := e.CheckOffload(); err != nil {
		return nil, err
	}
	planned, err := plan(e, p, o, rt.Kind == xla.CUDA)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	s, err := newTeam(e, p, o)
	if err != nil {
		return nil, err
	}
	lead := s.setups[0]
	r := &Result{What: "fewstep", Device: rt.DeviceName(), Preset: o.Preset, Step: o.Step, Batch: o.Batch, Accumulate: max(o.Accumulate, 1), Devices: max(o.Devices, 1), Reduce: o.Reduce.String(), Apart: o.Apart, Bucket: o.Bucket, Shard: configs.ShardReplicated,
		Compute: e.Compute.String(), Frozen: e.FrozenDType().String(), Critic: o.Critic, Moments: o.Moments.String(), Offload: configs.OffloadNone, Granularity: int(e.Granularity), Calls: int(max(e.Granularity, e.Calls)), Split: e.Split, Sites: e.Sites,
		SetupS: seconds(time.Since(start)), FLOPs: cost.ModelCount, XLAFlags: os.Getenv("XLA_FLAGS")}
	if e.Shard {
		r.Shard = configs.ShardSharded
	}
	if e.Offload > 0 {
		r.Offload = configs.OffloadOptimizer
	}
	before := e.Compiled()
	var times, hosts []time.Duration
	for i := range 3 + o.Iters { // one that compiles, two that warm up
		runs, t := e.Runs(), time.Now()
		queued, err := s.step()
		if err != nil {
			return nil, err
		}
		took := time.Since(t)
		switch {
		case i == 0:
			r.FirstS = seconds(took)
		case i >= 3:
			times, hosts = append(times, took), append(hosts, queued)
		}
		r.Runs = int(e.Runs() - runs)
	}
	slices.Sort(times)
	slices.Sort(hosts)
	median := times[len(times)/2].Seconds()
	r.HostMS = round(hosts[len(hosts)/2].Seconds() * 1e3)
	r.MedianMS, r.MinMS, r.SamplesPS = round(median*1e3), round(times[0].Seconds()*1e3), round(float64(o.Batch*r.Accumulate)/median)
	for i := range r.Devices {
		if m, err := rt.DeviceMemory(i); err == nil && (r.PeakGB == nil || *r.PeakGB < float64(m.Peak)/1e9) {
			gb := float64(m.Peak) / 1e9
			r.PeakGB = &gb
		}
		r.ArraysGB = max(r.ArraysGB, float64(s.setups[i].e.Memory().Peak)/1e9)
	}
	stats := e.Compiled()
	r.PlannedGB = float64(planned.Peak) / 1e9
	r.HostGB, r.PlannedHost = float64(e.Memory().HostPeak)/1e9, float64(planned.HostPeak)/1e9
	r.CompileS, r.Programs, r.Cached = seconds(stats.Wall-before.Wall), stats.Programs, stats.Cached
	r.Parameters = lead.parameters
	r.TFLOP, r.TFLOPs = flop/1e12, flop/1e12/median
	if o.PeakTFLOPs == 0 {
		o.PeakTFLOPs = rt.PeakTFLOPs()
	}
	if o.PeakTFLOPs > 0 {
		mfu := r.TFLOPs / o.PeakTFLOPs / float64(r.Devices)
		r.MFU = &mfu
	}
	if o.Profile != "" {
		idle, err := s.profile(rt, o.Profile, o.Summary)
		if err != nil {
			return nil, err
		}
		r.Idle = &idle
	}
	return r, nil
}

// team are the setups of the devices that train together.
type team struct {
	group  *engine.Group
	setups []*setup
}

func newTeam(lead *engine.Engine, p Preset, o Options) (*team, error) {
	g, err := engine.NewGroup(lead, max(o.Devices, 1), o.Reduce, nil)
	if err != nil {
		return nil, err
	}
	g.Overlap, g.Bucket = g.Overlap && !o.Apart, o.Bucket<<20
	t := &team{group: g, setups: make([]*setup, len(g.Engines()))}
	return t, g.Together(func(rank int) (err error) {
		t.setups[rank], err = newSetup(g.Engines()[rank], p, o, rank)
		return err
	})
}

// step takes a step on all devices; queued is the time in which the first one's host had queued it.
func (t *team) step() (queued time.Duration, err error) {
	err = t.group.Together(func(rank int) error {
		q, err := t.setups[rank].step()
		if rank == 0 {
			queued = q
		}
		return err
	})
	return queued, err
}

// plan is the memory that the step would take, without taking it.
func plan(e *engine.Engine, p Preset, o Options, flash bool) (m engine.Memory, err error) {
	rt, err := xla.Open(xla.Go, xla.Options{}) // builds graphs only
	if err != nil {
		return m, err
	}
	defer rt.Close()
	d := e.OnPaper(rt.Backend)
	d.Flash = flash
	d.Rehearse(o.Devices)
	s, err := newSetup(d, p, o, 0)
	if err != nil {
		return m, err
	}
	for range 2 {
		if _, err := s.step(); err != nil {
			return m, err
		}
	}
	return d.Memory(), nil
}

func seconds(d time.Duration) float64 { return round(d.Seconds()) }

// round keeps three decimals.
func round(x float64) float64 { return math.Round(1e3*x) / 1e3 }
