// Package ldm reads and writes the single-file layout of SDXL's family and of Stable Diffusion 1 and 2, which ComfyUI,
// A1111 and diffusers' from_single_file load: all components in one safetensors file, under the tensor names of Stability
// AI's code.
//
//	model.diffusion_model.*               UNet
//	first_stage_model.*                   VAE
//	conditioner.embedders.0.transformer.* SDXL's first text encoder, transformers' names
//	conditioner.embedders.1.model.*       SDXL's second text encoder, OpenCLIP's names
//	cond_stage_model.transformer.*        Stable Diffusion 1's text encoder, transformers' names
//	cond_stage_model.model.*              Stable Diffusion 2's text encoder, OpenCLIP's names
//
// Everything else in this project has diffusers' names. The translation is by name and shape alone: a tensor read is a
// view into the mapped file, except for the one transposed matrix, and a tensor written is the component's own, except
// for that matrix and the fused projections of a text encoder with OpenCLIP's names.
package ldm

import (
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

// Form is where a kind of model has its text encoders in a single file.
type Form string

// Forms.
const (
	FormXL Form = "SDXL"
	Form1  Form = "Stable Diffusion 1"
	Form2  Form = "Stable Diffusion 2"
)

// forms are the components' places.
var forms = map[Form][]site{
	FormXL: {{UNet, ldm, unetPrefix}, {VAE, ldm, vaePrefix}, {Text, diffusers, "conditioner.embedders.0.transformer."}, {Text2, ldm, "conditioner.embedders.1.model."}},
	Form1:  {{UNet, ldm, unetPrefix}, {VAE, ldm, vaePrefix}, {Text, diffusers, "cond_stage_model.transformer."}},
	Form2:  {{UNet, ldm, unetPrefix}, {VAE, ldm, vaePrefix}, {Text, ldm, "cond_stage_model.model."}},
}

const (
	unetPrefix = "model.diffusion_model."
	vaePrefix  = "first_stage_model."
)

// Checkpoint is a single file seen with diffusers' names.
type Checkpoint struct {
	path       string
	family     Family
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

// Open maps the single file at path. A file of another family is an error that says what it is; a file with
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
	found := look(src)
	if !readable[found.family] {
		return nil, fmt.Errorf("%s: %s: only SDXL's family and Stable Diffusion 1 and 2 can be read", path, found.family.Sentence())
	}
	c := &Checkpoint{path: path, family: found.family, src: src, metadata: metadata, components: map[string]map[string]origin{}}
	_, c.leftOut = plainNames(src.Names())
	parts := map[site][]string{}
	for _, name := range found.src.names {
		if s, rest, ok := owner(found.sites, name); ok {
			parts[s] = append(parts[s], rest)
		} else {
			c.leftOut = append(c.leftOut, found.src.plain[name])
		}
	}
	for s, names := range parts {
		tensors, foreign, err := translate(s, names, found.src.plain)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		c.leftOut = append(c.leftOut, foreign...)
		if len(tensors) > 0 {
			c.components[s.component] = tensors
		}
	}
	slices.Sort(c.leftOut)
	return c, nil
}

// readable are the families whose files can be opened as a model: SDXL's, Stable Diffusion's, and those that only take
// further inputs, which can be converted and merged, not drawn with.
var readable = map[Family]bool{SDXL: true, SDXLInpainting: true, SDXLEdit: true, SD1: true, SD2: true, SDInpainting: true}

// Readable says whether files of the family can be opened as a model, and Drawable whether it draws pictures too.
func (f Family) Readable() bool { return readable[f] }

// Drawable says whether fewstep draws with the family and distils it.
func (f Family) Drawable() bool { return f == SDXL || f == SD1 || f == SD2 }

// conditional are the modules of UNets that are conditioned on more than SDXL's: leaving them out would make another
// network of one.
var conditional = map[string]bool{"time_embed": true, "label_emb": true, "time_embedding": true, "add_embedding": true,
	"class_embedding": true, "encoder_hid_proj": true, "position_net": true, "out": true, "conv_in": true, "conv_out": true, "conv_norm_out": true}

// Component gives the tensors of a component's own folder or file under diffusers' names, whichever of the namings it
// has, and the names of those that are none of the component's. Closing it closes src; path is for messages.
func Component(path, component string, src weights.Source) (weights.Source, []string, error) {
	w := unwrapped(src)
	s := site{component: component}
	for _, found := range findSites(w.names) {
		if found.component == component || isText(found.component) && isText(component) {
			s.names, s.prefix = found.names, found.prefix
		}
	}
	c := &Checkpoint{path: path, src: src}
	_, c.leftOut = plainNames(src.Names())
	var names []string
	for _, name := range w.names {
		if rest, ok := strings.CutPrefix(name, s.prefix); ok {
			names = append(names, rest)
		} else {
			c.leftOut = append(c.leftOut, w.plain[name])
		}
	}
	tensors, foreign, err := translate(s, names, w.plain)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return &part{c, component, tensors, src.Close}, append(c.leftOut, foreign...), nil
}

func isText(component string) bool { return component == Text || component == Text2 }

// translate gives the diffusers tensors of a component's names, which come without the site's prefix, and the names of
// the tensors that are none of it: buffers, and what other tools add. plain has the names in the file.
func translate(s site, names []string, plain map[string]string) (tensors map[string]origin, foreign []string, failed error) {
	tensors = map[string]origin{}
	put := func(name, from string, how how, part int) {
		from = plain[s.prefix+from]
		if other, twice := tensors[name]; twice && failed == nil {
			failed = fmt.Errorf("tensor %s: %s is the same part of the model", from, other.name)
		}
		tensors[name] = origin{from, how, part}
	}
	toDiffusers := s.translator(names)
	unused := s.unusedLayer(names)
	for _, from := range names {
		if unused != "" && (strings.HasPrefix(from, unused) || from == openProjection) {
			foreign = append(foreign, plain[s.prefix+from])
			continue
		}
		if isText(s.component) && s.names == ldm {
			if layer, kind, ok := fusedOf(from); ok {
				for i, part := range fusedParts {
					put(layer+part+kind, from, fused, i)
				}
				continue
			}
			if from == openProjection {
				put(projection, from, transpose, 0)
				continue
			}
		}
		name, ok := toDiffusers(from)
		own, is := siteOf(from)
		if !ok && (is && own.prefix == "" || s.component == UNet && conditional[strings.SplitN(from, ".", 2)[0]]) && failed == nil {
			failed = fmt.Errorf("tensor %s has no place in the layout of its family", plain[s.prefix+from])
		}
		if !ok {
			foreign = append(foreign, plain[s.prefix+from])
			continue
		}
		how := same
		if s.component == VAE && isAttention(name) {
			how = flat
		}
		put(name, from, how, 0)
	}
	return tensors, foreign, failed
}

// unusedLayer is the beginning of the names of an OpenCLIP encoder's last layer where Stable Diffusion 2 does not use it, ""
// where all layers are used: a whole OpenCLIP has its text projection, or the 24 layers of ViT-H.
func (s site) unusedLayer(names []string) string {
	if s.component != Text || s.names != ldm {
		return ""
	}
	last, whole := -1, false
	for _, name := range names {
		whole = whole || name == openProjection
		if f := strings.SplitN(name, ".", 4); len(f) == 4 && f[0] == "transformer" && f[1] == "resblocks" {
			if n, ok := number(f[2]); ok {
				last = max(last, n)
			}
		}
	}
	if last < 1 || !whole && last != 23 {
		return ""
	}
	return fmt.Sprintf("transformer.resblocks.%d.", last)
}

// translator gives the diffusers name of each name of a component, and says which have none.
func (s site) translator(names []string) func(string) (string, bool) {
	switch {
	case s.component == UNet && s.names == ldm:
		return namesOfLDM(names).toDiffusers
	case s.component == UNet:
		u := namesOfDiffusers(names)
		return func(name string) (string, bool) {
			_, ok := u.toLDM(name)
			return name, ok
		}
	case s.component == VAE && s.names == ldm:
		v := vaeNamesOf(names)
		return func(name string) (string, bool) { return v.translate(name, diffusers) }
	case s.component == VAE:
		v := vaeNamesOf(names)
		return func(name string) (string, bool) {
			name = newAttention(name)
			_, ok := v.translate(name, ldm)
			return name, ok
		}
	case s.names == ldm:
		return func(name string) (string, bool) {
			if name == projection { // diffusers' conversion script leaves it as it is
				return name, true
			}
			return openTranslate(name, diffusers)
		}
	}
	return transformersName
}

// Family is what kind of model the file is part of.
func (c *Checkpoint) Family() Family { return c.family }

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
		return nil, fmt.Errorf("%s: it holds no %s, only %s", c.path, component, strings.Join(slices.Sorted(maps.Keys(c.components)), ", "))
	}
	return &part{c, component, tensors, nil}, nil
}

// Close closes the file; tensors' data must not be touched afterwards.
func (c *Checkpoint) Close() error { return c.src.Close() }

// part is one component of a checkpoint.
type part struct {
	c         *Checkpoint
	component string
	tensors   map[string]origin
	close     func() error // nil where the checkpoint is closed by itself
}

func (p *part) Names() []string { return slices.Sorted(maps.Keys(p.tensors)) }

func (p *part) Close() error {
	if p.close == nil {
		return nil
	}
	return p.close()
}

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
