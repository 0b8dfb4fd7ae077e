package cost_test

import (
	"math"
	"testing"

	"fewstep/configs"
	"fewstep/train/cost"
)

// The two-device row of the measured all-reduces: 10 GB, SDXL's UNet in f32, in 28.8 ms on two H200s by NVLink.
func TestAllReduceOfTwo(t *testing.T) {
	f := cost.Fabric{PerNode: 8, Link: 348e9, Network: 50e9}
	if got := f.AllReduce(4*2567463684, 2); math.Abs(got/0.0288-1) > 0.05 {
		t.Errorf("%g s, measured were 0.0288", got)
	}
	if got := f.AllReduce(1e9, 1); got != 0 {
		t.Errorf("one device takes %g s", got)
	}
	// 16 devices on two nodes: 1.75/348 s for 1 GB within a node, then an eighth of it between two.
	if got, want := f.AllReduce(1e9, 16), 1.75/348+1.0/8/50; math.Abs(got-want) > 1e-12 {
		t.Errorf("two nodes take %g s, want %g", got, want)
	}
}

// The two-device rows that were measured, of steps of two samples on each device: seconds on one, bytes added up, seconds on two.
// Of mse-lora nothing went into MeasuredLoss; MeasuredShardedLoss has no row but its own.
func TestScalesAsMeasured(t *testing.T) {
	f := cost.Fabric{PerNode: 8, Link: 348e9, Network: 50e9, Disk: 1e9, Loss: cost.MeasuredLoss, Sharded: cost.MeasuredShardedLoss}
	for _, row := range []struct {
		step, shard            string
		accumulate             int
		one                    float64
		student, discriminator int64
		two, within            float64
	}{
		{"adv-full", configs.ShardReplicated, 1, 0.482, 2_567_463_684, 1_380_000_000, 0.548, 0.01},
		{"adv-full", configs.ShardReplicated, 4, 2.211, 2_567_463_684, 1_380_000_000, 2.365, 0.01},
		{"adv-lora", configs.ShardReplicated, 1, 0.471, 197_000_000, 1_380_000_000, 0.510, 0.01},
		{"mse-lora", configs.ShardReplicated, 1, 0.387, 197_000_000, 0, 0.423, 0.05},
		{"adv-full", configs.ShardSharded, 1, 0.478, 2_567_463_684, 1_380_000_000, 0.752, 0.01},
	} {
		batch := 4 * row.accumulate // of two devices
		c := &configs.Recipe{Train: configs.Train{Batch: batch / row.accumulate, Accumulate: row.accumulate, Reduce: "f32", Compute: "bf16", Shard: row.shard}}
		p := cost.Phase{Trained: row.student, Discriminator: row.discriminator, Model: 1e12, Samples: int64(batch)}
		all, _ := p.Scales(c, f, float64(batch)*1e12/(2*row.one), 2)
		if got := all[1].Update(); math.Abs(got/row.two-1) > row.within {
			t.Errorf("%s, %s, %d micro-batches: %.3f s on two devices, measured were %.3f", row.step, row.shard, row.accumulate, got, row.two)
		}
	}
}

func TestScales(t *testing.T) {
	c := &configs.Recipe{Train: configs.Train{Batch: 64, Accumulate: 2, Reduce: "f32", Compute: "bf16", Shard: configs.ShardReplicated}}
	p := cost.Phase{Trained: 1e9, Discriminator: 5e8, Model: 1e12, Samples: 12_800, Checkpoint: 20e9}
	f := cost.Fabric{PerNode: 8, Link: 300e9, Network: 30e9, Disk: 2e9}
	all, enough := p.Scales(c, f, 128e12, 512)
	if len(all) != 8 || all[7].Devices != 128 {
		t.Fatalf("%d rows for updates of 128 samples", len(all))
	}
	if s := all[1]; s.Traffic != 6e9 || s.Compute != 0.5 || math.Abs(s.Reduce-0.02) > 1e-12 || math.Abs(s.Efficiency-0.5/0.52) > 1e-12 {
		t.Errorf("two devices: %+v", s)
	}
	// 100 updates; a checkpoint of 20 GB is written by one node in 10 s, by 16 nodes in a sixteenth of that.
	if s := all[1]; math.Abs(s.Phase-52) > 1e-9 || s.Save != 10 || all[7].Save != 10./16 {
		t.Errorf("a phase on two devices: %+v; saved by 128: %g s", s, all[7].Save)
	}
	for i, s := range all[1:] {
		if s.Efficiency >= all[i].Efficiency {
			t.Errorf("%d devices: %g, %d: %g", all[i].Devices, all[i].Efficiency, s.Devices, s.Efficiency)
		}
	}
	if enough < 8 || enough >= 128 {
		t.Errorf("enough are %d", enough)
	}
	c.Train.Reduce, c.Train.Shard = "bf16", configs.ShardSharded
	if got := p.Traffic(c, 4); got != 1.5e9*(2*2+2) {
		t.Errorf("sharded and in bf16, %d bytes", got)
	}
}
