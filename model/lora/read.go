package lora

import (
	"errors"
	"fmt"
	"maps"
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
