package lora

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"fewstep/model/ldm"
	"fewstep/model/weights"
)

// Report tells what Read found beside the modules.
type Report struct {
	Namings      []Naming // conventions found, sorted
	TextEncoder  []string // text-encoder modules, which are skipped, as the file spells them, sorted
	MissingAlpha int      // modules without alpha, read with alpha = rank
	Metadata     map[string]string
}

// Read loads the LoRA file at path for a UNet with the given modules (diffusers
// paths of its layers, without ".weight"). It accepts kohya names over
// diffusers or LDM blocks, diffusers-legacy and PEFT names, any rank per
// module, and a missing alpha (= rank, unless diffusers' adapter metadata gives
// it). Modules come back in the order of known.
//
// A module that is not in known, a half that is missing, shapes that do not fit
// each other and values that are not finite are errors naming file and module.
// Whether the shapes fit the UNet's layers, CheckTargets tells.
func Read(path string, known []string) ([]Module, Report, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, Report{}, err
	}
	defer f.Close()
	modules, report, err := read(f, known)
	if err != nil {
		return nil, Report{}, fmt.Errorf("%s: %w", path, err)
	}
	return modules, report, nil
}

func read(f *weights.File, known []string) ([]Module, Report, error) {
	report := Report{Metadata: f.Metadata()}
	adapter, err := parseAdapterMetadata(report.Metadata)
	if err != nil {
		return nil, Report{}, err
	}
	resolve, err := resolver(known)
	if err != nil {
		return nil, Report{}, err
	}
	found := map[string]*[3]string{} // module path to tensor names by part
	namings, textEncoder := map[Naming]bool{}, map[string]bool{}
	for _, name := range f.Names() {
		k, err := parseKey(name)
		if err != nil {
			return nil, Report{}, fmt.Errorf("tensor %s: %w", name, err)
		}
		if k.textEncoder {
			textEncoder[k.module] = true
			continue
		}
		if k.naming != "" {
			namings[k.naming] = true
		}
		path, ok := resolve(k)
		if !ok {
			return nil, Report{}, fmt.Errorf("module %s (tensor %s): the model has no such module: the LoRA was made for another model", k.module, name)
		}
		parts := found[path]
		if parts == nil {
			parts = new([3]string)
			found[path] = parts
		}
		if parts[k.part] != "" {
			return nil, Report{}, fmt.Errorf("module %s: both %s and %s are its %s", path, parts[k.part], name, k.part)
		}
		parts[k.part] = name
	}
	report.Namings = slices.Sorted(maps.Keys(namings))
	report.TextEncoder = slices.Sorted(maps.Keys(textEncoder))
	if len(found) == 0 {
		return nil, Report{}, errors.New("it has no UNet modules")
	}
	var modules []Module
	for _, path := range known {
		parts := found[path]
		if parts == nil {
			continue
		}
		delete(found, path) // known may repeat a path
		m, err := readModule(f, path, parts, adapter)
		if err != nil {
			return nil, Report{}, fmt.Errorf("module %s: %w", path, err)
		}
		if parts[alpha] == "" {
			report.MissingAlpha++
		}
		modules = append(modules, m)
	}
	return modules, report, nil
}

// resolver finds the diffusers path that a key's module means.
func resolver(known []string) (func(key) (string, bool), error) {
	dotted := map[string]string{}
	for _, path := range known {
		dotted[path] = path
	}
	flat := map[string]string{}
	add := func(name, path string) error {
		name = strings.ReplaceAll(name, ".", "_")
		if other, taken := flat[name]; taken && other != path {
			return fmt.Errorf("the model's modules %s and %s have the same kohya name", other, path)
		}
		flat[name] = path
		return nil
	}
	for _, path := range known {
		if err := add(path, path); err != nil {
			return nil, err
		}
	}
	for path, name := range ldm.UNetModules(known) {
		if err := add(name, path); err != nil {
			return nil, err
		}
	}
	return func(k key) (string, bool) {
		names := dotted
		if k.flat {
			names = flat
		}
		path, ok := names[k.module]
		return path, ok
	}, nil
}

func readModule(f *weights.File, path string, parts *[3]string, adapter adapterMetadata) (Module, error) {
	m := Module{Path: path}
	var err error
	if m.Down, err = readHalf(f, parts, down); err != nil {
		return m, err
	}
	if m.Up, err = readHalf(f, parts, up); err != nil {
		return m, err
	}
	if len(m.Down.Shape) > 0 {
		m.Rank = m.Down.Shape[0]
	}
	if parts[alpha] == "" {
		m.Alpha = adapter.alpha(path, m.Rank)
	} else if m.Alpha, err = readAlpha(f, parts[alpha]); err != nil {
		return m, err
	}
	return m, m.check()
}

func readHalf(f *weights.File, parts *[3]string, p part) (Matrix, error) {
	if parts[p] == "" {
		other := parts[down] + parts[up]
		if other == "" {
			return Matrix{}, fmt.Errorf("it has only %s, no down and up: the file is incomplete", parts[alpha])
		}
		return Matrix{}, fmt.Errorf("it has %s but no %s: the file is incomplete", other, p)
	}
	t, err := f.Tensor(parts[p])
	if err != nil {
		return Matrix{}, err
	}
	values, err := t.Finite()
	if err != nil {
		return Matrix{}, err
	}
	return Matrix{Shape: t.Shape, Data: values}, nil
}

func readAlpha(f *weights.File, name string) (float64, error) {
	t, err := f.Tensor(name)
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

// adapterMetadata is what matters of the PEFT config that diffusers stores as
// JSON under "lora_adapter_metadata". Its zero value means there is none.
type adapterMetadata struct {
	Alpha    *float64           `json:"lora_alpha"`
	Patterns map[string]float64 `json:"alpha_pattern"`
	RSLoRA   bool               `json:"use_rslora"`
}

func parseAdapterMetadata(metadata map[string]string) (adapterMetadata, error) {
	var a adapterMetadata
	text, ok := metadata["lora_adapter_metadata"]
	if !ok {
		return a, nil
	}
	fields := map[string]json.RawMessage{}
	err := json.Unmarshal([]byte(text), &fields)
	if err == nil { // saved from a pipeline, the keys carry the component's name
		for _, name := range []string{"lora_alpha", "alpha_pattern", "use_rslora"} {
			if value, ok := fields["unet."+name]; ok {
				fields[name] = value
			}
		}
		var plain []byte
		if plain, err = json.Marshal(fields); err == nil {
			err = json.Unmarshal(plain, &a)
		}
	}
	if err != nil {
		return a, fmt.Errorf("metadata key lora_adapter_metadata: %w", err)
	}
	return a, nil
}

// alpha of a module without an alpha tensor. PEFT matches a pattern to the end
// of the path; rank-stabilised LoRA scales by alpha/sqrt(rank).
func (a adapterMetadata) alpha(path string, rank int) float64 {
	if a.Alpha == nil {
		return float64(rank)
	}
	value, longest := *a.Alpha, -1
	for pattern, v := range a.Patterns {
		if (path == pattern || strings.HasSuffix(path, "."+pattern)) && len(pattern) > longest {
			value, longest = v, len(pattern)
		}
	}
	if a.RSLoRA {
		value *= math.Sqrt(float64(rank))
	}
	return value
}
