package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"fewstep/configs"
	"fewstep/train/cost"
)

// planScale is what --scale is to be estimated from; most 0 = not asked for.
type planScale struct {
	most, perNode       int
	link, network, disk float64 // GB/s
}

func (s planScale) check(speed planSpeed) error {
	switch {
	case s.most < 0 || s.most > 1<<16 || s.perNode < 1 || !(s.link > 0) || !(s.network > 0) || !(s.disk > 0):
		return usageErrorf("--scale %d, --gpus %d, --link %g, --network %g, --disk %g: numbers of GPUs up to 65536, and positive GB/s", s.most, s.perNode, s.link, s.network, s.disk)
	case s.most > 0 && speed.tflops <= 0:
		return withHint(usageErrorf("--scale needs the speed of one GPU"), "give --tflops, which training and 'fewstep bench' tell")
	}
	return nil
}

// scale estimates the longest phase on several devices.
func (p *planned) scale(c *configs.Recipe, s planScale, speed planSpeed) {
	var longest *cost.Phase
	for i := range p.Phases {
		if ph := &p.Phases[i]; ph.Kind != configs.KindMerge && (longest == nil || ph.Model*float64(ph.Samples) > longest.Model*float64(longest.Samples)) {
			longest = ph
		}
	}
	if longest == nil {
		return
	}
	p.Scaled = longest.Stage + "/" + longest.Phase
	p.Scales, p.Enough = longest.Scales(c, cost.Fabric{PerNode: s.perNode, Link: s.link * 1e9, Network: s.network * 1e9, Disk: s.disk * 1e9, Loss: cost.MeasuredLoss, Sharded: cost.MeasuredShardedLoss}, speed.tflops*1e12, s.most)
	p.Notes = append(p.Notes, "scale: "+cost.ScaleAssumes)
}

func (p planned) printScales(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "GPUs\t%s, update\tof it adding up\tsamples/s\tof ideal\tphase\ta checkpoint\n", p.Scaled)
	for _, s := range p.Scales {
		fmt.Fprintf(w, "%d\t%.3g s\t%.3g s, %s\t%.4g\t%.1f %%\t%.3g h\t%.3g s\n", s.Devices, s.Update(), s.Reduce, bytesText(s.Traffic), s.SamplesPS, 100*s.Efficiency, s.Phase/3600, s.Save)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if p.Enough > 0 {
		fmt.Fprintf(to, "from %d GPUs on, doubling them makes the phase less than a fifth faster\n", p.Enough)
	}
	return nil
}
