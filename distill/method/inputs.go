package method

import (
	"fmt"
	"slices"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/family"

	"github.com/gomlx/compute/shapes"
)

// Host is a micro-batch in the host's memory: the part of an update that depends on no network. One Host is filled many times.
type Host struct {
	*distill.Batch
	X          []float32   // x_t
	Conditions [][]float32 // in the order of the network's inputs
	Noises     [][]float32 // those of the batch

	epsilon []float32
	shape   *shapes.Shape // of x_t, where it is another than that of the session
}

// Reshape says that the micro-batch's latents have another height and width than the session's, which are the largest.
func (s *Session) Reshape(h *Host, height, width int) {
	shape := s.shapes[family.Sample].Clone()
	shape.Dimensions[1], shape.Dimensions[2] = height, width
	h.shape = &shape
	for _, v := range append([]*[]float32{&h.X, &h.epsilon}, pointers(h.Noises)...) {
		if *v != nil { // without content there is nothing to cut
			*v = (*v)[:shape.Size()]
		}
	}
}

func pointers(all [][]float32) (out []*[]float32) {
	for i := range all {
		out = append(out, &all[i])
	}
	return out
}

// Draw makes a micro-batch's coefficients, of the samples from first on, and room for its tensors.
func (s *Session) Draw(h *Host, first int64) (err error) {
	if h.Batch, err = s.Sampler.Batch(first, s.Samples()); err != nil {
		return err
	}
	if err := s.Method.Draw(s.Sampler, h.Batch, first); err != nil {
		return fmt.Errorf("stage %q, phase %q: %w", s.Step.StageName, s.Step.PhaseName, err)
	}
	if h.X != nil || s.Engine.Hollow() {
		return nil
	}
	h.X, h.epsilon = make([]float32, s.shapes[family.Sample].Size()), make([]float32, s.shapes[family.Sample].Size())
	for _, shape := range s.shapes[family.Given:] {
		h.Conditions = append(h.Conditions, make([]float32, shape.Size()))
	}
	for range h.Batch.Noises {
		h.Noises = append(h.Noises, make([]float32, len(h.X)))
	}
	return nil
}

// Inputs are a micro-batch on the device: what an update takes besides networks.
type Inputs struct {
	X, T       *engine.Array // x_t, and the network's index of t
	Conditions []*engine.Array
	A, B       *engine.Array            // the student's step (5)
	Teacher    []Call                   // the teacher's calls in order
	Guidance   *program.Guidance        // of them; nil = none
	More       map[string]*engine.Array // the method's columns and noises, by name

	owned []*engine.Array
}

// Call is a call of the teacher: its index of the timestep, and the coefficients of the step (5).
type Call struct{ T, A, B *engine.Array }

// Lent returns the same arrays; Free of the copy does nothing.
func (in *Inputs) Lent() *Inputs {
	lent := *in
	lent.owned = nil
	return &lent
}

// Free gives the device's memory back.
func (in *Inputs) Free() { engine.Free(in.owned...) }

// At lists a network's inputs with other latents and another timestep, followed by more.
func (in *Inputs) At(x, t *engine.Array, more ...*engine.Array) []*engine.Array {
	return append(append([]*engine.Array{x, t}, in.Conditions...), more...)
}

// Upload puts a micro-batch on the device. On one whose arrays have no content its tensors need not be there.
func (s *Session) Upload(h *Host) (*Inputs, error) {
	in, n := &Inputs{More: map[string]*engine.Array{}}, len(h.T)
	latents := s.shapes[family.Sample]
	if h.shape != nil {
		latents = *h.shape
	}
	var failed error
	array := func(v []float32, shape shapes.Shape) *engine.Array {
		if failed != nil {
			return nil
		}
		var a *engine.Array
		if s.Engine.Hollow() {
			a = s.Engine.Blank(shape)
		} else if a, failed = s.Engine.Upload(v, shape.Dimensions...); failed != nil {
			return nil
		}
		in.owned = append(in.owned, a)
		return a
	}
	column := func(v []float64) *engine.Array {
		f := make([]float32, n)
		for i := range v {
			f[i] = float32(v[i])
		}
		return array(f, s.shapes[family.Time])
	}
	index := func(t []int) *engine.Array {
		f := make([]float32, n)
		for i := range t {
			f[i] = float32(s.Sampler.Schedule.NetworkIndex(t[i]))
		}
		return array(f, s.shapes[family.Time])
	}
	tensor := func(all [][]float32, i int, shape shapes.Shape) *engine.Array {
		if s.Engine.Hollow() {
			return array(nil, shape)
		}
		return array(all[i], shape)
	}
	in.X, in.T = array(h.X, latents), index(h.T)
	for i, shape := range s.shapes[family.Given:] {
		in.Conditions = append(in.Conditions, tensor(h.Conditions, i, shape))
	}
	in.A, in.B = column(h.StudentA), column(h.StudentB)
	for _, w := range h.Batch.Teacher {
		in.Teacher = append(in.Teacher, Call{index(w.At), column(w.A), column(w.B)})
	}
	if h.Guidance != nil {
		in.Guidance = &program.Guidance{Scale: column(h.Guidance)}
		if in.Guidance.Empty, failed = s.emptyPrompt(); failed != nil {
			in.Free()
			return nil, failed
		}
	}
	for _, c := range h.Columns {
		if c.At != nil {
			in.More[c.Name] = index(c.At)
		} else {
			in.More[c.Name] = column(c.Values)
		}
	}
	for i, noise := range h.Batch.Noises {
		in.More[noise.Name] = tensor(h.Noises, i, latents)
	}
	if failed != nil {
		in.Free()
		return nil, failed
	}
	return in, nil
}

// emptyPrompt is what the empty prompt makes of the conditions that follow from captions, for each sample; nil where it is
// zeros.
func (s *Session) emptyPrompt() ([]*engine.Array, error) {
	if !s.EncodesEmpty || s.empty != nil {
		return s.empty, nil
	}
	for i, c := range s.Denoiser.Conditions(1) {
		if !c.Caption {
			continue
		}
		shape := s.shapes[family.Given+i]
		if s.Engine.Hollow() {
			s.empty = append(s.empty, s.Engine.Blank(shape))
			continue
		}
		a, err := s.Engine.Upload(slices.Repeat(s.Weights.Empty()[c.Name], s.Samples()), shape.Dimensions...)
		if err != nil {
			return nil, err
		}
		s.empty = append(s.empty, a)
	}
	return s.empty, nil
}

// Source gives a phase's micro-batches on the device, in order.
type Source interface {
	Take(first int64) (*Inputs, error) // the micro-batch whose first sample it is; the caller's
	Wait()                             // until the next one, if there is one, is on the device
}

// Made makes micro-batches without content when they are asked for, each like the phase's first.
type Made struct {
	Session *Session
	Latents Latents // their size, where it is not the phase's
	host    Host
	next    *Inputs
	failed  error
}

// Take is Source's; any samples will do.
func (m *Made) Take(int64) (*Inputs, error) {
	m.Wait()
	in := m.next
	m.next = nil
	return in, m.failed
}

// Wait makes the next micro-batch.
func (m *Made) Wait() {
	if m.next != nil || m.failed != nil {
		return
	}
	if m.host.Batch == nil {
		m.failed = m.Session.Draw(&m.host, m.Session.Step.First)
		if m.Latents != (Latents{}) {
			m.Session.Reshape(&m.host, m.Latents.Height, m.Latents.Width)
		}
	}
	if m.failed == nil {
		m.next, m.failed = m.Session.Upload(&m.host)
	}
}

// free gives back the micro-batch that was not taken.
func (m *Made) free() {
	if m.next != nil {
		m.next.Free()
	}
}

// Noise makes x_t of x0 for sample i of a filled micro-batch, by (1) with the schedule fix (3.5), and draws the noises
// that the method asks for. sample is its number.
func (h *Host) Noise(seed uint64, i int, sample int64) {
	n := len(h.T)
	epsilon := Part(h.epsilon, i, n)
	distill.Normal(epsilon, seed, distill.Noise, sample)
	a, b := float32(h.InputA[i]), float32(h.InputB[i])
	x := Part(h.X, i, n)
	for j := range x {
		x[j] = a*x[j] + b*epsilon[j]
	}
	for k, noise := range h.Batch.Noises {
		if v := Part(h.Noises[k], i, n); noise.Silent != nil && noise.Silent[i] {
			clear(v)
		} else {
			distill.Normal(v, seed, noise.Purpose, sample)
		}
	}
}

// Part is the part of sample i of n.
func Part(v []float32, i, n int) []float32 {
	size := len(v) / n
	return v[i*size : (i+1)*size]
}
