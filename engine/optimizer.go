package engine

import (
	"fewstep/model/nn"
	"slices"

	"fmt"
	"math"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Adam holds the settings of an Adam or AdamW optimizer, PyTorch's update rule.
// With Beta1 = 0 no first moment is kept.
type Adam struct {
	Beta1, Beta2 float64
	Eps          float64 // added to sqrt(v̂); 0 = 1e-8
	WeightDecay  float64 // decoupled
	ClipNorm     float64 // largest global gradient norm; 0 = off
	EMA          float64 // decay of an averaged copy of the weights; 0 = off

	Moments dtypes.DType // in which both moments are kept: Float32 (the default), or BFloat16, rounded stochastically
	Seed    uint64       // of that rounding
}

// Optimizer is the state of training one network's trained parameters.
type Optimizer struct {
	Adam
	Steps  int64 // updates done
	params *Params
	names  []string // trained parameters, in order
	lists  []stateList
	acc    []*Array // gradients added up over micro-batches, nil outside an accumulation

	index map[string]int // of names
	sizes []int          // their elements
	owner []int          // the device of the group that keeps a parameter's state; of others' the lists hold nil
	rank  int            // this device
	team  []*Optimizer   // of the same parameters on the devices among which state is dealt out, this one among them

	numbered map[string]*Array // see numbers
}

// NewOptimizer starts with zero moments (and the EMA at the weights).
func (e *Engine) NewOptimizer(settings Adam, params *Params) (*Optimizer, error) {
	o := e.emptyOptimizer(settings, params)
	if len(o.names) == 0 {
		return nil, fmt.Errorf("nothing to train: no parameter is marked as trained")
	}
	if err := e.CheckOffload(); err != nil {
		return nil, err
	}
	if err := e.joinTeam(o); err != nil {
		return nil, err
	}
	for k := range o.names {
		for i := range o.lists {
			if err := e.initial(&o.lists[i], o, k); err != nil {
				return nil, err
			}
		}
	}
	// The arrays that updates take beside the state are made now, so that the first update takes no more memory than the next.
	if e.Granularity == nn.Network {
		_, err := e.numbers(o, o.all())
		return o, err
	}
	for _, k := range o.owned(o.all()) {
		if _, err := e.numbers(o, []int{k}); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// emptyOptimizer has no state yet.
func (e *Engine) emptyOptimizer(settings Adam, params *Params) *Optimizer {
	if settings.Eps == 0 {
		settings.Eps = 1e-8
	}
	o := &Optimizer{Adam: settings, params: params, names: params.Trained(), index: map[string]int{}, rank: e.rank}
	for k, name := range o.names {
		o.index[name] = k
		o.sizes = append(o.sizes, params.Get(name).shape.Size())
	}
	o.owner = e.owners(o.sizes)
	o.lists = settings.lists()
	return o
}

// stateList is one list of an optimizer's state: an array for each trained parameter, nil where another device keeps it.
type stateList struct {
	name   string // by which it is saved
	dtype  dtypes.DType
	arrays []*Array
}

// average is the name of the list of averaged weights.
const average = "ema"

// lists are those of the settings, empty: moments, without the first where Beta1 = 0, and the average, if there is one.
func (a Adam) lists() (out []stateList) {
	if a.Beta1 != 0 {
		out = append(out, stateList{name: "m", dtype: a.momentType()})
	}
	out = append(out, stateList{name: "v", dtype: a.momentType()})
	if a.EMA != 0 {
		out = append(out, stateList{name: average, dtype: dtypes.Float32})
	}
	return out
}

// initial appends what parameter k's state is before the first update: zeros, or the average of one weight.
func (e *Engine) initial(l *stateList, o *Optimizer, k int) error {
	switch {
	case !o.owns(k):
		l.arrays = append(l.arrays, nil)
		return nil
	case l.name != average:
		return e.zeroState(&l.arrays, o.master(k), l.dtype)
	}
	c, err := e.copyState(o.master(k))
	l.arrays = append(l.arrays, c)
	return err
}

func (e *Engine) zeros(list *[]*Array, like *Array, dtype dtypes.DType) error {
	if e.device.hollow() {
		*list = append(*list, e.Blank(shapes.Make(dtype, like.shape.Dimensions...)))
		return nil
	}
	z, err := e.uploadAs(dtype, make([]float32, like.shape.Size()), like.shape.Dimensions)
	*list = append(*list, z)
	return err
}

// uploadAs uploads f32 values, rounded to nearest where they are to be bf16.
func (e *Engine) uploadAs(dtype dtypes.DType, v []float32, dims []int) (*Array, error) {
	if dtype == dtypes.BFloat16 {
		return e.Upload(narrowed(v), dims...)
	}
	return e.Upload(v, dims...)
}

// Params are the parameters being trained.
func (o *Optimizer) Params() *Params { return o.params }

// Free frees the moments and the average, not the parameters.
func (o *Optimizer) Free() {
	Free(o.state()...)
	Free(o.acc...)
	for _, a := range o.numbered {
		a.Free()
	}
	o.numbered = nil
}

// state lists the moment arrays in program order.
func (o *Optimizer) state() []*Array { return slices.Concat(o.ordered()...) }

// ordered are the arrays of each list.
func (o *Optimizer) ordered() (out [][]*Array) {
	for _, l := range o.lists {
		out = append(out, l.arrays)
	}
	return out
}

func (o *Optimizer) setState(all []*Array) {
	n := len(o.names)
	for i := range o.lists {
		o.lists[i].arrays, all = all[:n:n], all[n:]
	}
}

// String tells the settings apart that a program depends on.
func (a Adam) String() string {
	return fmt.Sprintf("adam(%g,%g,%g,%g,%g,%g,%s)", a.Beta1, a.Beta2, a.Eps, a.WeightDecay, a.ClipNorm, a.EMA, a.momentType())
}

// hyper uploads what changes from step to step.
func (e *Engine) hyper(o *Optimizer, lr, gradScale float64) (*Array, error) {
	t := float64(o.Steps + 1)
	v := make([]float32, hyperCount)
	v[hyperRate] = float32(lr / (1 - math.Pow(o.Beta1, t)))
	v[hyperSecond] = float32(1 / math.Sqrt(1-math.Pow(o.Beta2, t)))
	v[hyperKeep] = float32(1 - lr*o.WeightDecay)
	v[hyperScale] = float32(gradScale)
	v[hyperFirstDraw], v[hyperSecondDraw] = o.draw(o.Steps + 1)
	return e.Upload(v, hyperCount)
}

// Average returns the averaged weights of an optimizer with EMA.
func (e *Engine) Average(o *Optimizer) (Tensors, error) {
	out, err := e.Download(o.params, nil)
	if err != nil {
		return nil, err
	}
	for _, name := range o.names {
		if o.EMA == 0 {
			break
		}
		if out[name], err = e.Floats(o.Averaged(name)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// AverageParams returns the network that an optimizer trains, with the averages in place of the trained parameters. It may be
// called until the optimizer's next update. Where the network's adapters are materialised, so are its own: FreeTrained frees
// those and nothing else.
func (e *Engine) AverageParams(o *Optimizer) (*Params, error) {
	p := o.params
	out := NewParams(p.Specs)
	var lora *nn.LoRA
	for _, s := range p.Specs {
		a := p.arrays[s.Name]
		if adapted, ok := p.adapters[s.Name]; ok {
			a, lora = adapted.base, &adapted.lora
		}
		if of := o.Averaged(s.Name); of != nil {
			if of.host {
				return nil, fmt.Errorf("the average of %q lies in the host's memory, and no program can take it", s.Name)
			}
			a = of
		}
		out.Set(s.Name, a, false)
	}
	if lora == nil {
		return out, nil
	}
	return out, e.Materialise(out, *lora)
}

// Averaged is the average of a trained parameter; nil without EMA, or where a device of another process keeps it.
func (o *Optimizer) Averaged(name string) *Array {
	i, ok := o.index[name]
	if !ok || o.keeper(i) == nil {
		return nil
	}
	for _, l := range o.keeper(i).lists {
		if l.name == average {
			return l.arrays[i]
		}
	}
	return nil
}

// SaveOptimizer lists what this process's devices keep, to be saved under "m.NAME", "v.NAME" and "ema.NAME". value copies one of
// them to the host.
func (e *Engine) SaveOptimizer(o *Optimizer) (specs []nn.Spec, value func(nn.Spec) ([]float32, error)) {
	arrays := map[string]*Array{}
	for at, l := range o.lists {
		for i := range l.arrays {
			keeper := o.keeper(i)
			if keeper == nil {
				continue
			}
			a := keeper.lists[at].arrays[i]
			name := l.name + "." + o.names[i]
			specs = append(specs, nn.Spec{Name: name, Dims: a.shape.Dimensions})
			arrays[name] = a
		}
	}
	return specs, func(s nn.Spec) ([]float32, error) {
		v, err := e.Floats(arrays[s.Name])
		if err != nil {
			return nil, fmt.Errorf("optimizer state %q: %w", s.Name, err)
		}
		return v, nil
	}
}

// Saved is the dtype of a saved tensor of the state, by its name.
func (o *Optimizer) Saved(name string) dtypes.DType {
	if kind, _ := split(name); kind == average {
		return dtypes.Float32
	}
	return o.momentType()
}

// RestoreOptimizer puts saved state back, which is asked for one by one.
func (e *Engine) RestoreOptimizer(o *Optimizer, value func(nn.Spec) ([]float32, error), steps int64) error {
	for _, l := range o.lists {
		for i, old := range l.arrays {
			if !o.owns(i) {
				continue
			}
			name := l.name + "." + o.names[i]
			v, err := value(nn.Spec{Name: name, Dims: old.shape.Dimensions})
			if err != nil {
				return fmt.Errorf("optimizer state: %w", err)
			}
			if len(v) != old.shape.Size() {
				return fmt.Errorf("optimizer state %q has the wrong size", name)
			}
			a, err := e.uploadState(old.shape.DType, v, old.shape.Dimensions)
			if err != nil {
				return err
			}
			old.Free()
			l.arrays[i] = a
		}
	}
	o.Steps = steps
	return nil
}
