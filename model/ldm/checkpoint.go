// Package ldm reads and writes the single-file layout of SDXL's family, which ComfyUI, A1111 and diffusers'
// from_single_file load: all components in one safetensors file, under the tensor names of Stability AI's code.
//
//	model.diffusion_model.*               UNet
//	first_stage_model.*                   VAE
//	conditioner.embedders.0.transformer.* first text encoder, transformers' names
//	conditioner.embedders.1.model.*       second text encoder, OpenCLIP's names
//
// Everything else in this project has diffusers' names. The translation is by name and shape alone: a tensor read is a
// view into the mapped file, except for the one transposed matrix, and a tensor written is the component's own, except
// for that matrix and the fused projections of the second text encoder.
package ldm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fewstep/model/weights"
)

// Components are the parts of the layout by their diffusers folders, in the order of this list.
var Components = []string{UNet, VAE, Text, Text2}

// Diffusers folders of the components.
const (
	UNet  = "unet"
	VAE   = "vae"
	Text  = "text_encoder"
	Text2 = "text_encoder_2"
)

var prefixes = map[string]string{
	UNet:  "model.diffusion_model.",
	VAE:   "first_stage_model.",
	Text:  "conditioner.embedders.0.transformer.",
	Text2: "conditioner.embedders.1.model.",
}

// Checkpoint is a single file seen with diffusers' names.
type Checkpoint struct {
	path       string
	src        weights.Source
	metadata   map[string]string
	components map[string]map[string]origin // component, tensor
	leftOut    []string
}

// origin is where a diffusers tensor lies in the file.
type origin struct {
	name string
	how  how
	part int // of a fused matrix
}

type how int

const (
	same      how = iota // the tensor itself
	flat                 // without its 1×1 kernel
	fused                // a third of its rows
	transpose            // turned around
)

// Open maps the single file at path. A file that is not of SDXL's family is an error that says what it is; a file with
// some of the components, such as a UNet alone, is none.
func Open(path string) (*Checkpoint, error) {
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	c, err := New(path, f, f.Metadata())
	if err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// New sees an open source, which the checkpoint closes, as a single file. path is for messages.
func New(path string, src weights.Source, metadata map[string]string) (*Checkpoint, error) {
	if family := Identify(src); family != SDXL {
		return nil, fmt.Errorf("%s: %s: only SDXL's family can be read", path, family.Sentence())
	}
	c := &Checkpoint{path: path, src: src, metadata: metadata, components: map[string]map[string]origin{}}
	parts := map[string][]string{}
	for _, name := range src.Names() {
		component, rest := split(name)
		if component == "" || ignored(component, rest) {
			c.leftOut = append(c.leftOut, name)
		} else {
			parts[component] = append(parts[component], rest)
		}
	}
	for component, names := range parts {
		tensors, err := translate(component, names)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		c.components[component] = tensors
	}
	return c, nil
}

func split(name string) (component, rest string) {
	for component, prefix := range prefixes {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return component, rest
		}
	}
	return "", name
}

// ignored says whether a tensor is a buffer that no loader of diffusers' layout reads.
func ignored(component, rest string) bool {
	switch component {
	case Text:
		return rest == "text_model.embeddings.position_ids"
	case Text2:
		return rest == "logit_scale" || rest == "attn_mask" || rest == "transformer.text_model.embeddings.position_ids"
	}
	return false
}

// translate gives the diffusers tensors of a component's names, which come without their prefix.
func translate(component string, names []string) (map[string]origin, error) {
	tensors := map[string]origin{}
	var failed error
	put := func(name string, ok bool, from string, how how, part int) {
		from = prefixes[component] + from
		if other, twice := tensors[name]; twice {
			failed = errors.Join(failed, fmt.Errorf("tensor %s: %s is the same part of the model", from, other.name))
		} else if !ok {
			failed = errors.Join(failed, fmt.Errorf("tensor %s has no place in SDXL's layout", from))
		}
		tensors[name] = origin{from, how, part}
	}
	var toDiffusers func(string) (string, bool)
	switch component {
	case UNet:
		toDiffusers = namesOfLDM(names).toDiffusers
	case VAE:
		v := vaeNamesOf(names)
		toDiffusers = func(name string) (string, bool) { return v.translate(name, diffusers) }
	case Text:
		toDiffusers = func(name string) (string, bool) { return name, true }
	case Text2:
		toDiffusers = func(name string) (string, bool) { return openTranslate(name, diffusers) }
	}
	for _, from := range names {
		if failed != nil {
			return nil, failed // the first is enough
		}
		if component == Text2 {
			if layer, kind, ok := fusedOf(from); ok {
				for i, part := range fusedParts {
					put(layer+part+kind, true, from, fused, i)
				}
				continue
			}
			switch from {
			case openProjection:
				put(projection, true, from, transpose, 0)
				continue
			case projection: // diffusers' conversion script leaves it as it is
				put(projection, true, from, same, 0)
				continue
			}
		}
		name, ok := toDiffusers(from)
		how := same
		if component == VAE && isAttention(name) {
			how = flat
		}
		put(name, ok, from, how, 0)
	}
	return tensors, failed
}

// Path is the file's path.
func (c *Checkpoint) Path() string { return c.path }

// Metadata is the file's string map, nil when it has none.
func (c *Checkpoint) Metadata() map[string]string { return maps.Clone(c.metadata) }

// Has says whether the file holds a component.
func (c *Checkpoint) Has(component string) bool { return c.components[component] != nil }

// LeftOut are the file's tensors that belong to no component: buffers such as position_ids, averages of training, and
// what other tools add. Sorted.
func (c *Checkpoint) LeftOut() []string { return slices.Clone(c.leftOut) }

// Component gives a component's tensors under diffusers' names. Closing it does nothing; close the checkpoint.
func (c *Checkpoint) Component(component string) (weights.Source, error) {
	tensors, ok := c.components[component]
	if !ok {
		return nil, fmt.Errorf("%s: it holds no %s (no tensor %s*)", c.path, component, prefixes[component])
	}
	return &part{c, component, tensors}, nil
}

// Close closes the file; tensors' data must not be touched afterwards.
func (c *Checkpoint) Close() error { return c.src.Close() }

// part is one component of a checkpoint.
type part struct {
	c         *Checkpoint
	component string
	tensors   map[string]origin
}

func (p *part) Names() []string { return slices.Sorted(maps.Keys(p.tensors)) }

func (p *part) Close() error { return nil }

func (p *part) Tensor(name string) (weights.Tensor, error) {
	from, ok := p.tensors[name]
	if !ok {
		return weights.Tensor{}, fmt.Errorf("%s: no tensor %s in %s", p.c.path, name, p.component)
	}
	t, err := p.c.src.Tensor(from.name)
	if err != nil {
		return weights.Tensor{}, err
	}
	switch from.how {
	case flat:
		t, err = t.Reshape(linearShape(t.Shape))
	case fused:
		if len(t.Shape) == 0 || t.Shape[0]%3 != 0 {
			return weights.Tensor{}, fmt.Errorf("%s: tensor %s has the shape %v, which is not query, key and value one above the other", p.c.path, t.Name, t.Shape)
		}
		rows := t.Shape[0] / 3
		t, err = t.Rows(from.part*rows, (from.part+1)*rows)
	case transpose:
		t, err = t.Transposed()
	}
	t.Name = name
	return t, err
}

// linearShape drops a 1×1 kernel.
func linearShape(shape []int) []int {
	if len(shape) == 4 && shape[2] == 1 && shape[3] == 1 {
		return shape[:2]
	}
	return shape
}
