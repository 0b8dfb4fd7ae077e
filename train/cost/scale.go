package cost

import (
	"fewstep/configs"
	"fewstep/distill/method"
)

// Fabric joins the devices of a cluster. Link and Network are bytes per second that each device moves in an all-reduce, which
// NCCL's tests call bus bandwidth.
type Fabric struct {
	PerNode int     // devices of a node
	Link    float64 // within a node
	Network float64 // of each device, between nodes
	Disk    float64 // bytes per second that each node writes of a checkpoint, while all do
	Loss    float64 // share of an update's arithmetic that several devices lose beside what they send; see MeasuredLoss
	Sharded float64 // the same where state is sharded
}

// MeasuredLoss is Fabric.Loss of two H200 that train SDXL with two samples each: 4.4 % of adv-full, 4.0 of adv-lora, 4.9 of adv-full
// with four micro-batches (train/bench/README.md). Mostly the host queues too slowly for several devices, and XLA copies.
// MeasuredShardedLoss is Fabric.Sharded, of one row alone: new weights are sent while nothing is computed.
const (
	MeasuredLoss        = 0.045
	MeasuredShardedLoss = 0.43
)

// ScaleAssumes says what Scales is made of.
const ScaleAssumes = "a device's speed does not depend on its part of the batch, which flatters small parts; gradients are added up once per update, " +
	"or with each micro-batch where state is sharded, by rings within and between nodes, as if nothing were computed meanwhile; several devices lose " +
	"4.5 % more, as two H200 were seen to, and 43 % where state is sharded; data, checkpoints, evaluation and lost devices take no time"

// AllReduce is the time in seconds in which n devices add up so many bytes each: within nodes, then, each device its part,
// between nodes.
func (f Fabric) AllReduce(bytes float64, n int) float64 {
	ring := func(bytes float64, n int, speed float64) float64 {
		if n <= 1 {
			return 0
		}
		return 2 * float64(n-1) / float64(n) * bytes / speed
	}
	near := min(n, f.PerNode)
	return ring(bytes, near, f.Link) + ring(bytes/float64(near), (n+near-1)/near, f.Network)
}

// Scale is the estimate for a phase on a number of devices.
type Scale struct {
	Devices    int     `json:"devices"`
	Traffic    int64   `json:"traffic_bytes"` // that each device adds up with the others for an update
	Compute    float64 `json:"compute_seconds"`
	Reduce     float64 `json:"reduce_seconds"`
	Lost       float64 `json:"lost_seconds"` // beside both; see Fabric.Loss
	SamplesPS  float64 `json:"samples_per_second"`
	Efficiency float64 `json:"efficiency"` // of the speed of one device times their number
	Phase      float64 `json:"phase_seconds"`
	Save       float64 `json:"save_seconds"` // of one checkpoint, each node its part
}

// Update is the time of an update in seconds.
func (s Scale) Update() float64 { return s.Compute + s.Reduce + s.Lost }

// Traffic is what a phase's update adds up over n devices, in bytes.
func (p Phase) Traffic(c *configs.Recipe, n int) int64 {
	trained := p.Trained + p.Discriminator
	gradients := trained * int64(method.ComputeTypes[c.Train.Reduce].Size())
	if c.Train.Shard != configs.ShardSharded {
		return gradients
	}
	micro := min(c.Train.Accumulate, c.Train.GlobalBatch()/n)
	return gradients*int64(micro) + trained*int64(method.ComputeTypes[c.Train.Compute].Size()) // and the new weights
}

// Scales estimates a phase on 1, 2, 4 … devices, up to a number of devices and to the samples of an update (train.batch and
// train.accumulate may be traded against each other). The speed of a device is in operations per second as ModelCount counts
// them. enough is the number of devices from which on doubling makes the phase less than a fifth faster; 0 where none of them is.
func (p Phase) Scales(c *configs.Recipe, f Fabric, speed float64, most int) (all []Scale, enough int) {
	batch := float64(c.Train.GlobalBatch())
	for n := 1; n <= most && n <= c.Train.GlobalBatch(); n *= 2 {
		s := Scale{Devices: n, Traffic: p.Traffic(c, n), Compute: batch / float64(n) * p.Model / speed}
		s.Reduce = f.AllReduce(float64(s.Traffic), n)
		switch {
		case n > 1 && c.Train.Shard == configs.ShardSharded:
			s.Lost = f.Sharded * s.Compute
		case n > 1:
			s.Lost = f.Loss * s.Compute
		}
		s.SamplesPS = batch / s.Update()
		s.Efficiency = s.Compute / s.Update()
		s.Phase = float64(p.Samples) / s.SamplesPS
		s.Save = float64(p.Checkpoint) / float64((n+f.PerNode-1)/f.PerNode) / f.Disk
		if i := len(all) - 1; i >= 0 && enough == 0 && s.SamplesPS < 1.2*all[i].SamplesPS {
			enough = all[i].Devices
		}
		all = append(all, s)
	}
	return all, enough
}
