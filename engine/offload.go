package engine

import (
	"errors"
	"fmt"

	"fewstep/internal/xla"
	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// The optimizer's state in the host's memory.
//
// With Engine.Offload the moments, the averaged weights and the gradients that are added up over micro-batches lie in
// page-locked memory of the host, those of large tensors. An update takes them to the device, runs the very program that
// it runs without, and takes the new state back; so the results have the same bits. Copies are queued like programs and go
// on beside them: a block's state is fetched while the block that is walked back through before it is computed. At most
// window blocks' states are on the device at one time: before another is fetched the host waits for the oldest to have
// gone back.
//
// What it costs is the way over the bus. An update of full adversarial training of SDXL (adv-full: 2,567 M and 1,378 M
// trained weights, one moment each) moves 15.8 GB of f32 state each way, half as much with moments in bf16: 0.6 s at the
// 25 GB/s of PCIe 4.0 ×16, 0.3 s at the 50 of PCIe 5.0, for each of the two ways, which the device may go at the same time
// (estimated, not measured). It moves beside the walks back, and not while the teacher, or the student forwards, is
// computed. Gradients that are added up are 15.8 GB more, each way with every micro-batch, and twice to the device for an
// update: for their norm, and to be applied. Vectors and other small tensors stay on the device: they are half of the
// tensors, and less than 0.1 % of the state.

// OffloadFrom is the number of elements from which on a tensor's state is worth a copy; for Engine.Offload.
const OffloadFrom = 1 << 14

// window is the number of blocks whose state may be on the device: one that is updated, one that comes, two that go back.
const window = 4

// CheckOffload says what is in the way of Engine.Offload, before anything is loaded.
func (e *Engine) CheckOffload() error {
	if e.Offload == 0 {
		return nil
	}
	if e.Granularity >= nn.Network {
		return errors.New("optimizer state in the host's memory: at granularity network an update takes all state at once; choose granularity stage or layer")
	}
	b, err := e.device.uploadToHost([]float32{0}, shapes.Make(dtypes.Float32, 1))
	if err != nil {
		return fmt.Errorf("optimizer state in the host's memory: %w", err)
	}
	return b.Finalize()
}

// offloads says whether the state of a tensor lies in the host's memory.
func (e *Engine) offloads(s shapes.Shape) bool { return e.Offload > 0 && s.Size() >= e.Offload }

// uploadState uploads f32 values of a part of the state to where it is kept.
func (e *Engine) uploadState(dtype dtypes.DType, v []float32, dims []int) (*Array, error) {
	shape := shapes.Make(dtype, dims...)
	if !e.offloads(shape) {
		return e.uploadAs(dtype, v, dims)
	}
	var flat any = v
	if dtype == dtypes.BFloat16 {
		flat = narrowed(v)
	}
	b, err := e.device.uploadToHost(flat, shape)
	if err != nil {
		return nil, fmt.Errorf("uploading a tensor of shape %v: %w", dims, err)
	}
	return e.hostArray(b, shape), nil
}

// zeroState appends a parameter's moment before the first update.
func (e *Engine) zeroState(list *[]*Array, like *Array, dtype dtypes.DType) error {
	shape := shapes.Make(dtype, like.shape.Dimensions...)
	if !e.offloads(shape) {
		return e.zeros(list, like, dtype)
	}
	if e.device.hollow() {
		*list = append(*list, e.hostArray(nothing{}, shape))
		return nil
	}
	z, err := e.uploadState(dtype, make([]float32, shape.Size()), shape.Dimensions)
	*list = append(*list, z)
	return err
}

// copyState is a copy of a parameter as a part of the state.
func (e *Engine) copyState(a *Array) (*Array, error) {
	if !e.offloads(a.shape) {
		return e.copy(a)
	}
	host, done, err := e.toHost(a)
	if err != nil {
		return nil, err
	}
	return host, done.Wait()
}

// hostArray takes a buffer in the host's memory into the engine's account.
func (e *Engine) hostArray(b compute.Buffer, shape shapes.Shape) *Array {
	e.account.addHost(bytesOf(shape))
	return &Array{buffer: b, shape: shape, of: &e.account, host: true}
}

// toHost queues a copy to the host's memory.
func (e *Engine) toHost(a *Array) (*Array, *xla.Transfer, error) {
	b, done, err := e.device.toHost(a.buffer)
	if err != nil {
		return nil, nil, err
	}
	return e.hostArray(b, a.shape), done, nil
}

// toDevice queues a copy to the device's memory.
func (e *Engine) toDevice(a *Array) (*Array, error) {
	b, err := e.device.toDevice(a.buffer)
	if err != nil {
		return nil, err
	}
	return e.array(b, a.shape), nil
}

// ferry brings arrays of an optimizer's parameters to the device and takes them back, where they lie in the host's memory;
// others it passes on.
type ferry struct {
	e     *Engine
	o     *Optimizer
	lists [][]*Array // of arrays by parameter: the state, gradients added up
	trips []*trip    // what is on the device, the oldest first
}

// trip is one block's arrays on their way.
type trip struct {
	first  int      // the first of its parameters' indices, by which it is known
	copies []*Array // on the device, in the order of lists and indices; those that the device keeps are nil
	done   []*xla.Transfer
	over   bool // they were taken and put
}

// fetch queues copies of some parameters' arrays to the device, unless they are there.
func (f *ferry) fetch(indices []int) error {
	if f.e.Offload == 0 || f.find(indices) != nil {
		return nil
	}
	for len(f.trips) >= window {
		if err := f.land(); err != nil {
			return err
		}
	}
	t := &trip{first: indices[0]}
	f.trips = append(f.trips, t)
	for _, list := range f.lists {
		for _, k := range indices {
			var a *Array
			if list[k] != nil && list[k].host {
				var err error
				if a, err = f.e.toDevice(list[k]); err != nil {
					return fmt.Errorf("state of %s: %w", f.o.names[k], err)
				}
			}
			t.copies = append(t.copies, a)
		}
	}
	return nil
}

// expect is fetch for one parameter, where there is one of that index.
func (f *ferry) expect(k int) error {
	if k >= len(f.o.names) || !f.o.owns(k) {
		return nil
	}
	return f.fetch([]int{k})
}

func (f *ferry) find(indices []int) *trip {
	for _, t := range f.trips {
		if t.first == indices[0] && !t.over {
			return t
		}
	}
	return nil
}

// land ends the oldest trip. What was fetched and not taken, because no gradient came, is where it was.
func (f *ferry) land() (err error) {
	t := f.trips[0]
	f.trips = f.trips[1:]
	for _, done := range t.done {
		err = errors.Join(err, done.Wait())
	}
	Free(t.copies...)
	return err
}

// take gives some parameters' arrays on the device, in the order of lists and indices. They may be donated to a program;
// put must follow.
func (f *ferry) take(indices []int) ([]*Array, error) {
	if err := f.fetch(indices); err != nil {
		return nil, err
	}
	t := f.find(indices)
	var out []*Array
	for _, list := range f.lists {
		for _, k := range indices {
			a := list[k]
			if a != nil && a.host {
				a = t.copies[len(out)]
			}
			out = append(out, a)
		}
	}
	return out, nil
}

// put installs new arrays for the parameters of the last take, in its order, nil for none. Where nil comes in place of
// all, the lists stay as they were.
func (f *ferry) put(indices []int, arrays []*Array) error {
	t := f.find(indices)
	if t != nil {
		t.over = true
	}
	if arrays == nil {
		return nil
	}
	i := 0
	for _, list := range f.lists {
		for _, k := range indices {
			a, old := arrays[i], list[k]
			if a == nil {
				old.Free()
			} else if f.e.offloads(a.shape) {
				host, done, err := f.e.toHost(a)
				if err != nil {
					return fmt.Errorf("state of %s: %w", f.o.names[k], err)
				}
				old.Free()
				t.done, t.copies[i] = append(t.done, done), a
				a = host
			}
			list[k] = a
			i++
		}
	}
	return nil
}

// finish waits for all that goes back, and drops what was fetched and not taken.
func (f *ferry) finish() (err error) {
	for len(f.trips) > 0 {
		err = errors.Join(err, f.land())
	}
	return err
}
