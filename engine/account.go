package engine

import (
	"sync"

	"github.com/gomlx/compute/shapes"
)

// Memory is the engine's own account of the arrays that it holds on the device, in bytes, padding and fragmentation not
// counted. It is the same on every plugin, and work is queued in the order in which it is counted, so that on a device
// with one queue Peak is what the arrays and the programs' scratch space really come to.
type Memory struct {
	Live int64 // arrays now
	Peak int64 // most at any time since the last ResetPeak: arrays, and the running program's outputs and scratch space
	Held int64 // the same without scratch space

	Host     int64 // of arrays in the host's memory now (offload.go)
	HostPeak int64 // most of it at any time since the last ResetPeak
}

type account struct {
	counts sync.Mutex
	memory Memory
}

// add changes what is live, and looks at the peak with a program's outputs and scratch space on top.
func (a *account) add(live, outputs, scratch int64) {
	a.counts.Lock()
	a.memory.Live += live
	a.memory.Peak = max(a.memory.Peak, a.memory.Live+outputs+scratch)
	a.memory.Held = max(a.memory.Held, a.memory.Live+outputs)
	a.counts.Unlock()
}

// addHost changes what lies in the host's memory.
func (a *account) addHost(bytes int64) {
	a.counts.Lock()
	a.memory.Host += bytes
	a.memory.HostPeak = max(a.memory.HostPeak, a.memory.Host)
	a.counts.Unlock()
}

// Memory reports the account.
func (e *Engine) Memory() Memory {
	e.counts.Lock()
	defer e.counts.Unlock()
	return e.memory
}

// ResetPeak begins a new peak at what is live now.
func (e *Engine) ResetPeak() {
	e.counts.Lock()
	e.memory.Peak, e.memory.Held, e.memory.HostPeak = e.memory.Live, e.memory.Live, e.memory.Host
	e.counts.Unlock()
}

func bytesOf(s shapes.Shape) int64 { return int64(s.Size()) * int64(s.DType.Size()) }

func bytesOfAll(of []shapes.Shape) (bytes int64) {
	for _, s := range of {
		bytes += bytesOf(s)
	}
	return bytes
}
