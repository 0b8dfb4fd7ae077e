package main

import (
	"fmt"
	"math"
	"time"
)

// longStop is the time from a signal to the saved state, in seconds, above which a plan tells what launchers must be told.
const longStop = 60

// stop estimates the longest time that a run takes from a signal to the saved state, in any of its phases: the update under way is
// completed where it cannot be left, and a checkpoint is written, by every node its part.
func (p *planned) stop(speed planSpeed, s planScale, devices int) {
	nodes := (devices + s.perNode - 1) / s.perNode
	var phase string
	var update, save float64
	for _, ph := range p.Phases {
		if ph.Updates == 0 || ph.Seconds == 0 {
			continue
		}
		of := ph.Bound * ph.Seconds / float64(ph.Updates)
		if speed.tflops > 0 { // of one device
			of /= float64(devices)
		}
		written := float64(ph.Checkpoint) / float64(nodes) / (s.disk * 1e9)
		if of+written > p.Stop {
			p.Stop, phase, update, save = of+written, ph.Stage+"/"+ph.Phase, of, written
		}
	}
	if phase == "" {
		return
	}
	text := fmt.Sprintf("stop: up to %s from a signal to the saved state, in %s: %s until the update can be left or is complete, %s to write a checkpoint at --disk %g GB/s",
		brief(p.Stop), phase, brief(update), brief(save), s.disk)
	if p.Stop > longStop {
		give := int(math.Ceil(p.Stop*1.5/30)) * 30
		text += fmt.Sprintf("; launchers must give more: Slurm by --signal=USR1@%d, Kubernetes by terminationGracePeriodSeconds: %d", give, give)
	}
	p.Notes = append(p.Notes, text)
}

// brief is a short time, in seconds, as text.
func brief(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}
