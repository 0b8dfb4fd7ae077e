package xla

import (
	"fmt"

	"github.com/gomlx/compute"
	"github.com/gomlx/gomlx/core/graph"
)

// Device is one device of an open backend.
type Device struct {
	Number      int           `json:"number"`
	Description string        `json:"description"`
	Memory      *DeviceMemory `json:"memory,omitempty"` // nil where the plugin keeps no figures
}

// Devices describes the backend's devices in the words of the plugin.
func (r *Runtime) Devices() []Device {
	devices := make([]Device, r.Backend.NumDevices())
	for i := range devices {
		devices[i] = Device{Number: i, Description: r.Backend.DeviceDescription(compute.DeviceNum(i))}
		if m, err := r.DeviceMemory(i); err == nil {
			devices[i].Memory = &m
		}
	}
	return devices
}

// Check compiles and runs a small matrix product and compares it with the right answer: it shows that the
// plugin can compile and compute, not merely be loaded.
func (r *Runtime) Check() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("xla: check of backend %s: %v", r.Kind, p)
		}
	}()
	product, err := graph.NewExec(r.Backend, func(a, b *graph.Node) *graph.Node { return graph.Dot(a, b).Product() })
	if err != nil {
		return fmt.Errorf("xla: check of backend %s: %w", r.Kind, err)
	}
	defer product.Finalize()
	out, err := product.Exec([][]float32{{1, 2}, {3, 4}}, [][]float32{{5, 6}, {7, 8}})
	if err != nil {
		return fmt.Errorf("xla: check of backend %s: %w", r.Kind, err)
	}
	got, ok := out[0].Value().([][]float32)
	if want := [2][2]float32{{19, 22}, {43, 50}}; !ok || len(got) != 2 || [2]float32(got[0]) != want[0] || [2]float32(got[1]) != want[1] {
		return fmt.Errorf("xla: check of backend %s: a matrix product gave %v, want %v", r.Kind, out[0].Value(), want)
	}
	return nil
}
