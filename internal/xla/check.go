package xla

import (
	"fmt"
	"math"

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

// Check compiles and runs a small program (a matrix product, a convolution, and functions that a GPU takes from
// libdevice) and compares it with the right answers: it shows that the plugin and the libraries that it opens only
// while it works can compile and compute, not merely be loaded.
func (r *Runtime) Check() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("xla: check of backend %s: %v", r.Kind, p)
		}
	}()
	program, err := graph.NewExec(r.Backend, func(a, b *graph.Node) []*graph.Node {
		product := graph.Dot(a, b).Product()
		image := graph.Reshape(a, 1, 2, 2, 1)
		kernel := graph.Reshape(b, 2, 2, 1, 1)
		return []*graph.Node{
			graph.Reshape(product, 4),
			graph.Reshape(graph.Convolve(image, kernel).NoPadding().Done(), 1),
			graph.Reshape(graph.Exp(graph.Tanh(a)), 4),
		}
	})
	if err != nil {
		return fmt.Errorf("xla: check of backend %s: %w", r.Kind, err)
	}
	defer program.Finalize()
	out, err := program.Exec([][]float32{{1, 2}, {3, 4}}, [][]float32{{5, 6}, {7, 8}})
	if err != nil {
		return fmt.Errorf("xla: check of backend %s: %w", r.Kind, err)
	}
	for i, c := range []struct {
		what string
		want []float64
	}{
		{"a matrix product", []float64{19, 22, 43, 50}},
		{"a convolution", []float64{70}},
		{"exp(tanh(x))", []float64{expTanh(1), expTanh(2), expTanh(3), expTanh(4)}},
	} {
		got, _ := out[i].Value().([]float32)
		for j, want := range c.want {
			if len(got) != len(c.want) || !(math.Abs(float64(got[j])-want) <= 1e-3*want) {
				return fmt.Errorf("xla: check of backend %s: %s gave %v, want %v", r.Kind, c.what, out[i].Value(), c.want)
			}
		}
	}
	return nil
}

func expTanh(x float64) float64 { return math.Exp(math.Tanh(x)) }
