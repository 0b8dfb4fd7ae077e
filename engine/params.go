package engine

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Params are one network's parameters on the device. Frozen entries may be shared between networks: a LoRA student
// and its teacher hold the same base arrays.
type Params struct {
	Specs    []nn.Spec // in order of first use in the network
	arrays   map[string]*Array
	trained  map[string]bool
	adapters map[string]adapter // by weight, where adapters are materialised (see split.go)
	narrow   bool               // holds bf16 arrays: its programs are other ones ...
	works    bool               // ... than those of trained bf16 copies
}

// NewParams makes an empty set for the given specs.
func NewParams(specs []nn.Spec) *Params {
	return &Params{Specs: specs, arrays: map[string]*Array{}, trained: map[string]bool{}}
}

// Set puts an array under a spec's name.
func (p *Params) Set(name string, a *Array, trained bool) {
	p.arrays[name] = a
	p.trained[name] = trained
	p.narrow = p.narrow || a.shape.DType == dtypes.BFloat16 && !a.working
	p.works = p.works || a.working
}

// Get returns a parameter's array, nil when there is none.
func (p *Params) Get(name string) *Array { return p.arrays[name] }

// Trained lists the trained parameters in the order of Specs.
func (p *Params) Trained() (names []string) {
	for _, s := range p.Specs {
		if p.trained[s.Name] {
			names = append(names, s.Name)
		}
	}
	return names
}

// Count is the number of elements of all parameters, and of the trained ones.
func (p *Params) Count() (all, trained int) {
	for _, s := range p.Specs {
		all += s.Size()
		if p.trained[s.Name] {
			trained += s.Size()
		}
	}
	return all, trained
}

// IsLoRA says whether a parameter is an adapter's factor.
func IsLoRA(name string) bool { return nn.IsLoRA(name) }

// Tensors is a set of host tensors by name, f32.
type Tensors = nn.Tensors

// Load uploads host tensors as a network's parameters; every spec must be there with the right size.
// trained says which of them an optimizer will change.
func (e *Engine) Load(specs []nn.Spec, values Tensors, trained func(name string) bool) (*Params, error) {
	return e.LoadFunc(specs, values.Value, trained)
}

// LoadFunc is Load from values that are asked for one by one, by several goroutines at once: the whole network need not
// be in the host's memory. Parameters that nothing trains are kept in e.Frozen.
func (e *Engine) LoadFunc(specs []nn.Spec, value func(nn.Spec) ([]float32, error), trained func(name string) bool) (*Params, error) {
	if e.device.hollow() {
		return e.BlankParams(specs, trained), nil
	}
	p, mine := NewParams(specs), e.mine(specs, trained)
	arrays, errs := make([]*Array, len(specs)), make([]error, len(specs))
	next := make(chan int)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for i := range next {
				arrays[i], errs[i] = e.upload(specs[i], value, trained != nil && trained(specs[i].Name), mine[specs[i].Name])
			}
		})
	}
	for i := range specs {
		next <- i
	}
	close(next)
	wait.Wait()
	for i, s := range specs {
		if errs[i] != nil {
			Free(arrays...)
			return nil, errs[i]
		}
		p.Set(s.Name, arrays[i], trained != nil && trained(s.Name))
	}
	return p, nil
}

func (e *Engine) upload(s nn.Spec, value func(nn.Spec) ([]float32, error), trained, mine bool) (*Array, error) {
	if err := e.interrupted(); err != nil {
		return nil, err
	}
	v, err := value(s)
	if err != nil {
		return nil, err
	}
	if len(v) != s.Size() {
		return nil, fmt.Errorf("tensor %q has %d elements, the network needs %v", s.Name, len(v), s.Dims)
	}
	form := e.keeps(s, trained)
	flat := v
	if form.turned {
		flat = turned(v, s.Dims)
	}
	a, err := e.uploadAs(form.shape.DType, flat, form.shape.Dimensions)
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", s.Name, err)
	}
	if a = e.inForm(a, form); a.working && mine {
		if a.master, err = e.Upload(v, s.Dims...); err != nil {
			a.Free()
			return nil, fmt.Errorf("tensor %q: %w", s.Name, err)
		}
	}
	return a, nil
}

// inForm marks an array as kept in the form of another.
func (e *Engine) inForm(a, form *Array) *Array {
	a.turned, a.working = form.turned, form.working
	return a
}

// Download copies parameters to the host; names nil means all.
func (e *Engine) Download(p *Params, names []string) (Tensors, error) {
	if names == nil {
		for _, s := range p.Specs {
			names = append(names, s.Name)
		}
	}
	out := Tensors{}
	for _, n := range names {
		a := p.arrays[n]
		if a == nil {
			return nil, fmt.Errorf("no parameter %q", n)
		}
		v, err := e.Floats(a)
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", n, err)
		}
		out[n] = v
	}
	return out, nil
}

// FreeTrained frees the arrays that belong to this set alone.
func (p *Params) FreeTrained() {
	for name, a := range p.arrays {
		if _, ok := p.adapters[name]; ok || p.trained[name] {
			a.Free()
		}
	}
}

// FreeAll frees every array of the set.
func (p *Params) FreeAll() {
	for _, a := range p.arrays {
		a.Free()
	}
}

// Fresh draws initial values for specs. uniform and normal fill dst with random numbers of the parameter of that name, uniform
// in [0, 1) and standard normal ones; so the result depends on names alone and not on order.
func Fresh(specs []nn.Spec, uniform, normal func(name string, dst []float32)) Tensors {
	out := Tensors{}
	for _, s := range specs {
		v := make([]float32, s.Size())
		switch s.Init {
		case nn.Ones:
			for i := range v {
				v[i] = 1
			}
		case nn.FanIn, nn.FanInLoRA:
			fan := 1
			for _, d := range s.Dims[1:] {
				fan *= d
			}
			bound := float32(1 / math.Sqrt(float64(fan)))
			uniform(s.Name, v)
			for i := range v {
				v[i] = (2*v[i] - 1) * bound
			}
		case nn.Normal002:
			normal(s.Name, v)
			for i := range v {
				v[i] *= 0.02
			}
		case nn.LogitScale:
			for i := range v {
				v[i] = float32(math.Log(1 / 0.07))
			}
		}
		out[s.Name] = v
	}
	return out
}

// split separates "network.rest" at the first dot.
func split(name string) (network, rest string) {
	network, rest, _ = strings.Cut(name, ".")
	return network, rest
}

// find returns the array behind a scope name.
func (b Bind) find(name string) (*Array, error) {
	network, rest := split(name)
	p, ok := b[network]
	if !ok {
		return nil, fmt.Errorf("no parameters bound to network %q (for %q)", network, name)
	}
	a := p.arrays[rest]
	if a == nil {
		return nil, fmt.Errorf("network %q has no parameter %q", network, rest)
	}
	return a, nil
}

// form is the dtypes of a set's parameters, as a part of program keys; "" = all are f32.
func (p *Params) form() (form string) {
	if p != nil && p.narrow {
		form += "|narrow"
	}
	if p != nil && p.works {
		form += "|working"
	}
	return form
}

// narrow lists the networks whose parameters are partly bf16, as a part of program keys.
func (b Bind) narrow() string {
	var names []string
	for name, p := range b {
		if form := p.form(); form != "" {
			names = append(names, name+form)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// lookup makes graph parameters on first use and records their names in p.
func (b Bind) lookup(g *graph.Graph, p *program) nn.Lookup {
	seen := map[string]*graph.Node{}
	return func(s nn.Spec) *graph.Node {
		if n, ok := seen[s.Name]; ok {
			return n
		}
		a, err := b.find(s.Name)
		if err != nil {
			panic(err)
		}
		n := parameter(g, s.Name, a)
		seen[s.Name] = n
		p.params = append(p.params, s.Name)
		return n
	}
}
