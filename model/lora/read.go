package lora

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"fewstep/model/ldm"
	"fewstep/model/weights"
)

// Report tells what was found beside the changes.
type Report struct {
	Namings      []Naming // conventions found, sorted
	TextEncoder  []string // modules of text encoders that no layers were given for, as the file spells them, sorted
	LeftOut      []string // tensors that are no part of an adapter, such as a bundled embedding, sorted
	MissingAlpha int      // modules without alpha, read with alpha = rank
	NoConfig     bool     // alpha is missing in a file as PEFT saves it, which has it in a config beside the file
	Metadata     map[string]string
}

// Notes are what a user should know of the report.
func (r Report) Notes() (notes []string) {
	if n := len(r.TextEncoder); n > 0 {
		notes = append(notes, fmt.Sprintf("%d modules of text encoders are left out", n))
	}
	if n := len(r.LeftOut); n > 0 {
		notes = append(notes, fmt.Sprintf("%d tensors are no part of a LoRA and left out, such as %s", n, r.LeftOut[0]))
	}
	if r.NoConfig {
		notes = append(notes, fmt.Sprintf("it has no alpha and no %s beside it: alpha is taken to be the rank, a scale of 1", configFile))
	}
	return notes
}

// Adapter is what a LoRA file, or one of its kin, does to a model.
type Adapter struct {
	Changes []Change // in the order of the layers given to Open
	Report
}

// Open reads the file at path for a model with the given layers. It accepts LoRA, LoCon, LoHa, LoKr, DoRA and full
// differences, kohya's names over diffusers' or LDM's blocks, diffusers' older and PEFT's names behind any prefix, any
// rank per module. An alpha that is missing is PEFT's config's, in the file's metadata or beside it, else the rank.
//
// A module that the layers lack, a kind of adapter that is not known, a part that is missing, shapes that do not fit each
// other and values that are not finite are errors naming file and module. Modules of text encoders that no layers are
// given for are left out and reported.
func Open(path string, layers Layers) (*Adapter, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := read(f, layers)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// Read is Open of plain LoRA for the layers of a UNet alone.
func Read(path string, known []string) ([]Module, Report, error) {
	a, err := Open(path, Layers{ldm.UNet: known})
	if err != nil {
		return nil, Report{}, err
	}
	modules, err := a.Modules()
	if err != nil {
		return nil, Report{}, fmt.Errorf("%s: %w", path, err)
	}
	return modules, a.Report, nil
}

// Modules are the changes of a UNet by plain LoRA. Another kind of change is an error.
func (a *Adapter) Modules() (modules []Module, err error) {
	for _, c := range a.Changes {
		switch {
		case c.Component != ldm.UNet:
			continue
		case c.Module == nil:
			return nil, fmt.Errorf("module %s: %s is no plain LoRA: 'fewstep lora merge' and 'fewstep sample' apply it", c.Path, c.kind())
		}
		modules = append(modules, *c.Module)
	}
	if len(modules) == 0 {
		return nil, errors.New("it has no UNet modules")
	}
	return modules, nil
}

func (c Change) kind() string {
	if c.DoRA {
		return "DoRA of " + c.Kind
	}
	return c.Kind
}

func read(f *weights.File, layers Layers) (*Adapter, error) {
	a := &Adapter{Report: Report{Metadata: f.Metadata()}}
	config, err := configsOf(f.Path(), a.Metadata)
	if err != nil {
		return nil, err
	}
	resolve, err := resolverOf(layers)
	if err != nil {
		return nil, err
	}
	found := map[target]map[part]string{} // tensor names by layer and part
	namings, text, adapters, peft := map[Naming]bool{}, map[string]bool{}, map[string]bool{}, false
	for _, name := range f.Names() {
		k, ok := parseKey(name)
		if !ok {
			if layer, _ := splitTail(name); layer != "" {
				if to, known := resolve.find(layer); known {
					return nil, fmt.Errorf("tensor %s: it changes the layer %s in a way that is not known: LoRA, LoCon, LoHa, LoKr, DoRA and full differences can be read", name, to.path)
				}
			}
			a.LeftOut = append(a.LeftOut, name)
			continue
		}
		to, ok := resolve.find(k.module)
		switch {
		case ok:
		case isText(k.module) && layers[component(flat(k.module))] == nil || otherText.MatchString(flat(k.module)) && component(flat(k.module)) == ldm.UNet:
			text[k.module] = true
			continue
		default:
			return nil, fmt.Errorf("module %s (tensor %s): the model has no such module: the LoRA was made for another model", short(k.module), name)
		}
		if k.naming != "" {
			namings[k.naming] = true
		}
		if k.adapter != "" {
			adapters[k.adapter] = true
		}
		peft = peft || strings.HasPrefix(name, "base_model.model.")
		if found[to] == nil {
			found[to] = map[part]string{}
		}
		if other := found[to][k.part]; other != "" {
			if len(adapters) > 1 {
				return nil, fmt.Errorf("module %s: it holds the adapters %s: keep one of them", to.path, strings.Join(slices.Sorted(maps.Keys(adapters)), ", "))
			}
			return nil, fmt.Errorf("module %s: both %s and %s are its %s", to.path, other, name, k.part)
		}
		found[to][k.part] = name
	}
	a.Namings = slices.Sorted(maps.Keys(namings))
	a.TextEncoder = slices.Sorted(maps.Keys(text))
	if len(found) == 0 {
		if len(text) > 0 {
			return nil, errors.New("it has no UNet modules, only text encoders'")
		}
		return nil, errors.New("it has no modules of a LoRA")
	}
	for _, component := range ldm.Components {
		for _, path := range layers[component] {
			parts := found[target{component, path}]
			if parts == nil {
				continue
			}
			delete(found, target{component, path}) // layers may repeat a path
			c, err := reader{f, config[component], a}.change(component, path, parts)
			if err != nil {
				return nil, fmt.Errorf("module %s: %w", path, err)
			}
			a.Changes = append(a.Changes, c)
		}
	}
	a.NoConfig = a.MissingAlpha > 0 && peft && config == nil
	return a, nil
}

// splitTail cuts the last elements of a tensor's name off, which may be what an unknown adapter calls its part.
func splitTail(name string) (layer, rest string) {
	name = strings.TrimSuffix(name, ".weight")
	if at := strings.LastIndexByte(name, '.'); at > 0 {
		return name[:at], name[at:]
	}
	return name, ""
}

// reader makes changes of a file's tensors.
type reader struct {
	f      *weights.File
	config adapterConfig
	report *Adapter
}

func (r reader) change(component, path string, parts map[part]string) (Change, error) {
	c := Change{Component: component, Path: path}
	has := func(p part) bool { return parts[p] != "" }
	begins := func(prefix string) bool {
		for p := range parts {
			if strings.HasPrefix(string(p), prefix) {
				return true
			}
		}
		return false
	}
	factor := 1.0
	if has(scalar) {
		var err error
		if factor, err = r.number(parts[scalar]); err != nil {
			return c, err
		}
	}
	var err error
	switch {
	case begins("hada_"):
		err = r.loha(&c, parts, factor)
	case begins("lokr_"):
		err = r.lokr(&c, parts, factor)
	case has(down) || has(up) || has(mid):
		err = r.lora(&c, parts, factor)
	case has(diff):
		c.Kind = KindFull
		var whole Matrix
		whole, err = r.matrix(parts[diff])
		c.delta = func() (dense, error) {
			rows := 1
			if len(whole.Shape) > 0 {
				rows = whole.Shape[0]
			}
			return dense{rows, len(whole.Data) / max(rows, 1), whole.Data}, nil
		}
	case has(diffBias):
		c.Kind = KindFull
	case has(magnitude):
		err = fmt.Errorf("it has only %s, no down and up: the file is incomplete", parts[magnitude])
	default:
		err = fmt.Errorf("it has only %s, no down and up: the file is incomplete", parts[alpha])
	}
	if err != nil {
		return c, err
	}
	if has(magnitude) {
		m, err := r.matrix(parts[magnitude])
		if err != nil {
			return c, err
		}
		c.DoRA, c.magnitude, c.Module = true, &m, nil
		c.rows = strings.Contains(parts[magnitude], "lora_magnitude_vector")
	}
	if has(diffBias) {
		m, err := r.matrix(parts[diffBias])
		if err != nil {
			return c, err
		}
		c.bias, c.Module = m.Data, nil
	}
	return c, nil
}

func (r reader) lora(c *Change, parts map[part]string, factor float64) error {
	c.Kind = KindLoRA
	m := Module{Path: c.Path}
	var err error
	if m.Down, err = r.half(parts, down); err != nil {
		return err
	}
	if m.Up, err = r.half(parts, up); err != nil {
		return err
	}
	if len(m.Down.Shape) > 0 {
		m.Rank = m.Down.Shape[0]
	}
	if m.Alpha, err = r.alpha(c.Path, parts, m.Rank); err != nil {
		return err
	}
	m.Alpha *= factor
	if parts[upBias] != "" {
		bias, err := r.matrix(parts[upBias])
		if err != nil {
			return err
		}
		c.bias = make([]float32, len(bias.Data))
		for i, v := range bias.Data {
			c.bias[i] = float32(float64(v) * m.Scale())
		}
	}
	if parts[mid] == "" {
		if err := m.check(); err != nil {
			return err
		}
		if c.bias == nil {
			c.Module = &m
		}
		c.delta = func() (dense, error) {
			_, values, err := Delta(m)
			return dense{m.Up.Shape[0], len(m.Down.Data) / m.Rank, values}, err
		}
		return nil
	}
	c.Kind = KindMid
	core, err := r.matrix(parts[mid])
	if err != nil {
		return err
	}
	up, err := m.Up.asMatrix()
	if err != nil {
		return err
	}
	first := Matrix{[]int{up.columns, up.rows}, transposed(up)}
	if err := finiteScale(m.Scale()); err != nil {
		return err
	}
	c.delta = func() (dense, error) {
		d, err := tucker(core, first, m.Down)
		return d.times(m.Scale()), err
	}
	_, err = c.delta()
	return err
}

func transposed(m dense) []float32 {
	out := make([]float32, len(m.data))
	for i := range m.rows {
		for j := range m.columns {
			out[j*m.rows+i] = m.data[i*m.columns+j]
		}
	}
	return out
}

func (m dense) times(f float64) dense {
	if f != 1 {
		for i, v := range m.data {
			m.data[i] = float32(float64(v) * f)
		}
	}
	return m
}

func finiteScale(scale float64) error {
	if scale == 0 || math.IsNaN(scale) || math.IsInf(scale, 0) {
		return fmt.Errorf("its scale is %g, want a finite value other than 0", scale)
	}
	return nil
}

// loha is LyCORIS's Hadamard product: (w1_a·w1_b)∘(w2_a·w2_b), either with a core for a kernel.
func (r reader) loha(c *Change, parts map[part]string, factor float64) error {
	c.Kind = KindLoHa
	factors, err := r.all(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
	if err != nil {
		return err
	}
	rank := 0
	if shape := factors[1].Shape; len(shape) > 0 {
		rank = shape[0]
	}
	value, err := r.alpha(c.Path, parts, rank)
	if err != nil {
		return err
	}
	scale := value / float64(rank) * factor
	if err := finiteScale(scale); err != nil {
		return err
	}
	var cores [2]*Matrix
	for i, p := range []part{"hada_t1", "hada_t2"} {
		if parts[p] != "" {
			m, err := r.matrix(parts[p])
			if err != nil {
				return err
			}
			cores[i] = &m
		}
	}
	c.delta = func() (dense, error) {
		var both [2]dense
		for i := range both {
			var err error
			if both[i], err = lowRank(cores[i], factors[2*i], factors[2*i+1]); err != nil {
				return dense{}, err
			}
		}
		if both[0].rows != both[1].rows || len(both[0].data) != len(both[1].data) {
			return dense{}, fmt.Errorf("its two products are of %d×%d and %d×%d", both[0].rows, both[0].columns, both[1].rows, both[1].columns)
		}
		for i, v := range both[1].data {
			both[0].data[i] *= v
		}
		return both[0].times(scale), nil
	}
	_, err = c.delta()
	return err
}

// lowRank is a·b, or with a core for a kernel Σ core·a·b.
func lowRank(core *Matrix, a, b Matrix) (dense, error) {
	if core != nil {
		return tucker(*core, a, b)
	}
	x, err := a.asMatrix()
	if err != nil {
		return dense{}, err
	}
	y, err := b.asMatrix()
	if err != nil {
		return dense{}, err
	}
	return product(1, x, y)
}

// lokr is LyCORIS's Kronecker product w1⊗w2, either of which may be of low rank, the second with a core for a kernel.
func (r reader) lokr(c *Change, parts map[part]string, factor float64) error {
	c.Kind = KindLoKr
	rank := 0
	side := func(number string) (Matrix, error) {
		if whole := part("lokr_w" + number); parts[whole] != "" {
			return r.matrix(parts[whole])
		}
		factors, err := r.all(parts, part("lokr_w"+number+"_a"), part("lokr_w"+number+"_b"))
		if err != nil {
			return Matrix{}, err
		}
		if len(factors[1].Shape) > 0 {
			rank = factors[1].Shape[0]
		}
		var core *Matrix
		kernel := []int{}
		if name := parts[part("lokr_t"+number)]; name != "" {
			m, err := r.matrix(name)
			if err != nil {
				return m, err
			}
			core = &m
			if len(m.Shape) > 2 {
				kernel = m.Shape[2:]
			}
		} else if len(factors[1].Shape) > 2 {
			kernel = factors[1].Shape[2:]
		}
		d, err := lowRank(core, factors[0], factors[1])
		if err != nil {
			return Matrix{}, err
		}
		n := 1
		for _, k := range kernel {
			n *= k
		}
		if n == 0 || d.columns%n != 0 {
			return Matrix{}, fmt.Errorf("a factor of %d columns has no kernel of %v", d.columns, kernel)
		}
		return Matrix{append([]int{d.rows, d.columns / n}, kernel...), d.data}, nil
	}
	first, err := side("1")
	if err != nil {
		return err
	}
	second, err := side("2")
	if err != nil {
		return err
	}
	scale := 1.0
	if value, ok := r.config.scale(c.Path, rank); rank > 0 {
		if value, err = r.alpha(c.Path, parts, rank); err != nil {
			return err
		}
		scale = value / float64(rank)
	} else if ok && parts[alpha] == "" {
		scale = value // PEFT scales whole factors too, LyCORIS does not
	}
	if scale *= factor; true {
		if err := finiteScale(scale); err != nil {
			return err
		}
	}
	c.delta = func() (dense, error) { return kronecker(scale, first, second) }
	_, err = c.delta()
	return err
}

// all reads the named parts.
func (r reader) all(parts map[part]string, names ...part) (list []Matrix, err error) {
	for _, p := range names {
		if parts[p] == "" {
			return nil, fmt.Errorf("it has no %s: the file is incomplete", p)
		}
		m, err := r.matrix(parts[p])
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func (r reader) half(parts map[part]string, p part) (Matrix, error) {
	if parts[p] == "" {
		return Matrix{}, fmt.Errorf("it has %s but no %s: the file is incomplete", parts[down]+parts[up], p)
	}
	return r.matrix(parts[p])
}

func (r reader) matrix(name string) (Matrix, error) {
	t, err := r.f.Tensor(name)
	if err != nil {
		return Matrix{}, err
	}
	values, err := t.Finite()
	return Matrix{Shape: t.Shape, Data: values}, err
}

// alpha is the tensor's, else the config's, else the rank.
func (r reader) alpha(path string, parts map[part]string, rank int) (float64, error) {
	if parts[alpha] != "" {
		return r.number(parts[alpha])
	}
	r.report.MissingAlpha++
	if value, ok := r.config.scale(path, rank); ok && rank > 0 {
		return value, nil
	}
	return float64(rank), nil
}

func (r reader) number(name string) (float64, error) {
	t, err := r.f.Tensor(name)
	if err != nil {
		return 0, err
	}
	values, err := t.Float32()
	if err != nil {
		return 0, err
	}
	if len(values) != 1 {
		return 0, fmt.Errorf("tensor %s: shape %v, want a single value", name, t.Shape)
	}
	return float64(values[0]), nil
}
