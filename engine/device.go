package engine

import (
	"fewstep/internal/xla"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
)

// device is what an engine asks of the device that it drives.
type device interface {
	// compile compiles a built program and tells what scratch space it takes.
	compile(p *program) (xla.ProgramInfo, error)
	// run queues a compiled program; donated buffers are gone afterwards.
	run(p *program, in []compute.Buffer, donate []bool) ([]compute.Buffer, error)

	upload(flat any, shape shapes.Shape) (compute.Buffer, error)
	uploadToHost(flat any, shape shapes.Shape) (compute.Buffer, error) // into the host's memory, as far as the device reaches it
	toHost(b compute.Buffer) (compute.Buffer, *xla.Transfer, error)    // queues a copy to the host's memory
	toDevice(b compute.Buffer) (compute.Buffer, error)                 // queues a copy back

	hollow() bool // arrays have no content: nobody need make any for them
}

// onXLA is a device of a backend, by number.
type onXLA struct {
	backend compute.Backend
	number  compute.DeviceNum
}

func (d onXLA) compile(p *program) (xla.ProgramInfo, error) {
	return xla.Compile(p.aliases, p.span, func() error {
		return guard(func() error { return p.graph.Compile(p.pending...) })
	})
}

func (d onXLA) run(p *program, in []compute.Buffer, donate []bool) (out []compute.Buffer, err error) {
	err = guard(func() (err error) {
		out, err = p.graph.Executable().Execute(in, donate, d.number)
		return err
	})
	return out, err
}

func (d onXLA) upload(flat any, shape shapes.Shape) (compute.Buffer, error) {
	return d.backend.BufferFromFlatData(d.number, flat, shape)
}

func (d onXLA) uploadToHost(flat any, shape shapes.Shape) (compute.Buffer, error) {
	return xla.UploadToHost(d.backend, d.number, flat, shape)
}

func (d onXLA) toHost(b compute.Buffer) (compute.Buffer, *xla.Transfer, error) {
	return xla.ToHost(b, d.number)
}

func (d onXLA) toDevice(b compute.Buffer) (compute.Buffer, error) { return xla.ToDevice(b, d.number) }

func (d onXLA) hollow() bool { return false }
