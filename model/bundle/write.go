package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"

	"fewstep/internal/atomicfile"
	"fewstep/model/clip"
	"fewstep/model/family"
	"fewstep/model/ldm"
	"fewstep/model/prediction"
	"fewstep/model/weights"
)

// WriteOptions say how a model is written.
type WriteOptions struct {
	DType    weights.DType              // of all floating-point tensors; empty keeps each tensor's own
	LDMNames bool                       // of a UNet file: Stability AI's names without a prefix, as ComfyUI loads it, not diffusers'
	Progress func(written, total int64) // bytes of data; may be nil
}

// weightsFile is the name of a component's weights file in a directory.
var weightsFile = map[string]string{
	ldm.UNet: "diffusion_pytorch_model.safetensors", ldm.VAE: "diffusion_pytorch_model.safetensors",
	ldm.Text: "model.safetensors", ldm.Text2: "model.safetensors",
}

// smallFiles are the paths of a directory's other files, tokenizers last.
func smallFiles() []string {
	names := []string{"model_index.json", "scheduler/scheduler_config.json"}
	for _, component := range ldm.Components {
		names = append(names, component+"/config.json")
	}
	for _, component := range ldm.Components {
		for _, file := range tokenizerFiles {
			if tokenizerOf[component] == "" {
				continue
			}
			names = append(names, path.Join(tokenizerOf[component], file))
		}
	}
	return names
}

// WriteDirectory makes a diffusers directory. out must not exist, or be an empty folder; it appears complete or not at
// all. What the model says about itself goes into the UNet file's metadata.
func (b *Bundle) WriteDirectory(out string, opt WriteOptions) error {
	if err := b.writable(); err != nil {
		return err
	}
	components := map[string][]weights.Tensor{}
	var total int64
	for _, component := range b.Components() {
		tensors, err := b.converted(component, opt.DType)
		if err != nil {
			return err
		}
		components[component] = tensors
		total += size(tensors)
	}
	for _, component := range b.Kind().Text {
		if _, err := b.Tokenizer(component); err != nil {
			return err
		}
	}
	_, metadata, err := b.description()
	if err != nil {
		return err
	}
	return atomicfile.WriteDir(out, func(folder string) error {
		for _, name := range smallFiles() {
			content, err := b.File(name)
			if errors.Is(err, fs.ErrNotExist) && (isTokenizer(name) || !b.wants(name)) {
				continue
			} else if err != nil {
				return err
			}
			if err := atomicfile.WriteBytes(filepath.Join(folder, filepath.FromSlash(name)), content); err != nil {
				return err
			}
		}
		var before int64
		for _, component := range b.Components() {
			own := map[string]string{"format": "pt"}
			if component == ldm.UNet && len(metadata) > 0 {
				own = metadata
			}
			save := described(own, "diffusers")
			save.Progress = after(before, total, opt.Progress)
			if err := weights.Save(filepath.Join(folder, component, weightsFile[component]), components[component], save); err != nil {
				return err
			}
			before += size(components[component])
		}
		return nil
	})
}

// description is what the model predicts, and what it says about itself with that under every key that tells it.
func (b *Bundle) description() (prediction.Type, map[string]string, error) {
	kind, _, err := b.Prediction()
	if err != nil {
		return kind, nil, err
	}
	metadata, err := b.Metadata()
	if err != nil {
		return kind, nil, err
	}
	if metadata == nil {
		metadata = map[string]string{}
	}
	kind.Describe(metadata)
	return kind, metadata, nil
}

// markersOf are the tensors without values by which ComfyUI and others know what a file with LDM's names predicts.
func markersOf(kind prediction.Type) (tensors []weights.Tensor) {
	for _, name := range kind.Markers() {
		tensors = append(tensors, weights.Tensor{Name: name, DType: weights.F32, Shape: []int{0}, Data: []byte{}})
	}
	return tensors
}

// writable says whether all components are there, and are networks of its kind by their configs: a form without
// configs would make something else of others.
func (b *Bundle) writable() error {
	if err := b.Complete(); err != nil {
		return err
	}
	for _, component := range b.Components() {
		name := component + "/config.json"
		config, err := b.File(name)
		if err != nil {
			return err
		}
		if _, err := expected(component, config, filepath.Join(b.Path, filepath.FromSlash(name))); err != nil {
			return err
		}
	}
	return nil
}

// described adapts what a model says about itself to a file of other data with the tensor names of the given
// implementation: a modelspec gets that and the hash of the new data.
func described(metadata map[string]string, implementation string) weights.Options {
	const key = "modelspec.implementation"
	opt := weights.Options{Metadata: maps.Clone(metadata), Finite: true}
	if _, ok := metadata[key]; ok {
		opt.Metadata[key] = implementation
		opt.Hash = true
	} else {
		delete(opt.Metadata, weights.KeyHash)
	}
	return opt
}

// sgm is modelspec's implementation of the single-file layout.
const sgm = "https://github.com/Stability-AI/generative-models"

// WriteSingleFile makes a single file. Configurations, and tokenizers that are not OpenAI's, go into its metadata; a
// model that describes itself by modelspec gets the hash of the new data.
func (b *Bundle) WriteSingleFile(out string, opt WriteOptions) error {
	if err := b.writable(); err != nil {
		return err
	}
	sources := map[string]weights.Source{}
	for _, component := range b.Components() {
		src, err := b.Weights(component)
		if err != nil {
			return err
		}
		sources[component] = src
	}
	tensors, err := ldm.Tensors(b.form(), sources)
	if err != nil {
		return fmt.Errorf("%s: %w", b.Path, err)
	}
	for i := range tensors {
		tensors[i] = tensors[i].As(opt.DType)
	}
	kind, metadata, err := b.description()
	if err != nil {
		return err
	}
	tensors = append(tensors, markersOf(kind)...)
	if err := b.addFiles(metadata); err != nil {
		return err
	}
	save := described(metadata, sgm)
	save.Progress = after(0, size(tensors), opt.Progress)
	return weights.Save(out, tensors, save)
}

// wants says whether a small file is one of the kind's: SDXL alone has a second text encoder's.
func (b *Bundle) wants(name string) bool {
	folder := path.Dir(name)
	for _, component := range ldm.Components {
		if folder == component || folder == tokenizerOf[component] {
			return slices.Contains(b.Components(), component)
		}
	}
	return true
}

// form is where a single file of this model has its text encoders: Stable Diffusion 2's is OpenCLIP's, which no other than
// the activation tells.
func (b *Bundle) form() ldm.Form {
	if b.Kind() == family.SDXL {
		return ldm.FormXL
	}
	if raw, err := b.ownFile(ldm.Text + "/config.json"); err == nil {
		if c, err := clip.ParseTextConfig(raw, b.Path); err == nil && c.Activation == "gelu" {
			return ldm.Form2
		}
	}
	return ldm.Form1
}

// addFiles puts the small files into a single file's metadata.
func (b *Bundle) addFiles(metadata map[string]string) error {
	standard := map[string]bool{}
	for _, component := range b.Kind().Text {
		t, err := b.Tokenizer(component)
		if err != nil {
			return err
		}
		standard[tokenizerOf[component]] = t.MaxLength == clip.StandardLength && t.Standard()
	}
	for _, name := range smallFiles() {
		content, err := b.File(name)
		switch {
		case standard[path.Dir(name)]:
			continue
		case errors.Is(err, fs.ErrNotExist) && (isTokenizer(name) || !b.wants(name)):
			continue
		case err != nil:
			return err
		}
		metadata[metadataFile+name] = string(content)
	}
	return nil
}

// WriteUNet makes a file of the UNet alone. Under diffusers' names it holds a UNet's tensors and nothing else, which is what
// diffusers' load_state_dict wants; what it predicts stands in its metadata. Under LDM's names it has marker tensors too,
// which ComfyUI finds where no prefix stands before the others.
func (b *Bundle) WriteUNet(out string, opt WriteOptions) error {
	tensors, err := b.converted(ldm.UNet, opt.DType)
	if err != nil {
		return err
	}
	kind, metadata, err := b.description()
	if err != nil {
		return err
	}
	const name = ldm.UNet + "/config.json"
	config, err := b.File(name)
	if err != nil {
		return err
	}
	metadata[metadataFile+name] = string(config)
	save := described(metadata, "diffusers")
	if opt.LDMNames {
		if tensors, err = ldm.UNetTensors(weights.Collect(tensors)); err != nil {
			return fmt.Errorf("%s: %w", b.Path, err)
		}
		tensors = append(tensors, markersOf(kind)...)
		save = described(metadata, sgm)
	}
	save.Progress = after(0, size(tensors), opt.Progress)
	return weights.Save(out, tensors, save)
}

// converted gives a component's tensors in another element type.
func (b *Bundle) converted(component string, to weights.DType) ([]weights.Tensor, error) {
	src, err := b.Weights(component)
	if err != nil {
		return nil, err
	}
	names := src.Names()
	out := make([]weights.Tensor, len(names))
	for i, name := range names {
		t, err := src.Tensor(name)
		if err != nil {
			return nil, err
		}
		out[i] = t.As(to)
	}
	return out, nil
}

func size(tensors []weights.Tensor) (n int64) {
	for _, t := range tensors {
		n += int64(t.Elements()) * int64(t.DType.Size())
	}
	return n
}

// after tells progress of a part that comes after some bytes of a total.
func after(before, total int64, progress func(written, total int64)) func(int64) {
	if progress == nil {
		return nil
	}
	return func(n int64) { progress(before+n, total) }
}

// Replace puts another source in a component's place, such as a distilled UNet in its base. Its names and shapes must
// be the component's. It is not closed with the bundle.
func (b *Bundle) Replace(component string, src weights.Source) error {
	own, err := b.Weights(component)
	if err != nil {
		return err
	}
	for _, name := range own.Names() {
		have, err := own.Tensor(name)
		if err != nil {
			return err
		}
		t, err := src.Tensor(name)
		if err != nil {
			return fmt.Errorf("%w: it is not for the model %s", err, b.Path)
		}
		if !slices.Equal(t.Shape, have.Shape) {
			return fmt.Errorf("tensor %s has the shape %v, that of the model %s is %v", name, t.Shape, b.Path, have.Shape)
		}
	}
	if extra := len(src.Names()) - len(own.Names()); extra > 0 {
		return fmt.Errorf("it has %d tensors more than %s of the model %s", extra, component, b.Path)
	}
	b.replaced[component] = src
	return nil
}

// ReplaceFile puts another content in a small file's place.
func (b *Bundle) ReplaceFile(name string, content []byte) { b.replacedFiles[name] = content }

// ReplaceMetadata puts something else in the place of what the model says about itself.
func (b *Bundle) ReplaceMetadata(metadata map[string]string) { b.replacedMetadata = metadata }

// Take puts what another model has, which may be a UNet alone, in the place of this one's components, and what it says
// about itself. The two must be of one architecture. The other bundle must stay open as long as this one, which closes
// it.
func (b *Bundle) Take(other *Bundle) error {
	for _, component := range ldm.Components {
		if !other.Has(component) {
			continue
		}
		src, err := other.Weights(component)
		if err != nil {
			return err
		}
		if err := b.Replace(component, src); err != nil {
			return fmt.Errorf("%s: %w", other.Path, err)
		}
	}
	metadata, err := other.Metadata()
	if err != nil {
		return err
	}
	if other.Has(ldm.UNet) {
		if b.taken, err = other.saidItself(); err != nil {
			return err
		}
		b.ReplaceMetadata(metadata)
	}
	b.opened = append(b.opened, other)
	return nil
}
