// Package bundle opens a text-to-image model of SDXL's family, or Stable Diffusion 1 or 2, wherever its parts lie, and
// writes it in any of the forms that other programs load:
//
//	diffusers directory  unet/ vae/ text_encoder/ tokenizer/ scheduler/ model_index.json, SDXL's text_encoder_2/ tokenizer_2/
//	single file          everything under LDM's names (package ldm), as ComfyUI and A1111 load it
//	UNet file            the UNet alone, under diffusers' names or LDM's
//
// A single file has no place for configurations and tokenizers. Files that this package writes carry them in their
// metadata, under "fewstep.file." and the path they have in a directory; for other files the configurations are read
// from the tensors' shapes, with what its kind has where shapes do not tell, and the tokenizers are OpenAI's.
package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/internal/text"
	"fewstep/model/family"
	"fewstep/model/ldm"
	"fewstep/model/prediction"
	"fewstep/model/weights"
)

// Layout is a form of a model on disk.
type Layout string

// Layouts.
const (
	Directory  Layout = "diffusers directory"
	SingleFile Layout = "single file"
	UNetFile   Layout = "UNet file"
)

// metadataFile is the beginning of the metadata keys that hold a directory's small files.
const metadataFile = "fewstep.file."

// Bundle is an open model.
type Bundle struct {
	Path   string
	Layout Layout

	kind       *family.Kind
	metadata   map[string]string // of the single file or the UNet's file
	files      map[string][]byte // by slash path; nil for a directory, whose files are read when asked for
	checkpoint *ldm.Checkpoint   // of a file
	leftOut    []string          // of what was opened: tensors that no component has
	markers    []string          // and those that say what it predicts
	taken      []prediction.Said // what a model says whose UNet took this one's place
	opened     []io.Closer

	read             map[string]weights.Source // components that were asked for
	replaced         map[string]weights.Source
	replacedFiles    map[string][]byte
	replacedMetadata map[string]string
}

// Options of Open.
type Options struct {
	// Config is a folder with small files of a diffusers directory, such as unet/config.json and tokenizer/vocab.json, for
	// a single file or a UNet file that neither holds them nor is like SDXL in what shapes do not tell. They come before
	// those in the file's metadata.
	Config string
}

// Open opens a diffusers directory, a single file or a UNet file. The error says what a file is that is none of them, or
// which tensors it lacks. A directory's files are opened when they are asked for.
func Open(name string, opt Options) (*Bundle, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no model at %s: give a diffusers directory or a safetensors file: %w", name, fs.ErrNotExist)
	} else if err != nil {
		return nil, err
	}
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(name, "model_index.json")); err != nil {
			return nil, fmt.Errorf("%s is not a diffusers model directory: it has no model_index.json (%w)", name, err)
		}
		return newBundle(name, Directory), nil
	}
	f, err := weights.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := OfFile(f, opt)
	if err != nil {
		f.Close()
		return nil, err
	}
	b.opened = append(b.opened, f)
	return b, nil
}

// OfFile is Open for an open file, which stays the caller's to close.
func OfFile(f *weights.File, opt Options) (*Bundle, error) {
	b := newBundle(f.Path(), "")
	return b, b.look(f, opt)
}

func newBundle(path string, layout Layout) *Bundle {
	return &Bundle{Path: path, Layout: layout, read: map[string]weights.Source{}, replaced: map[string]weights.Source{}, replacedFiles: map[string][]byte{}}
}

// look tells the file's layout and fills in what it does not say about itself.
func (b *Bundle) look(f *weights.File, opt Options) (err error) {
	b.metadata = f.Metadata()
	if b.checkpoint, err = ldm.New(b.Path, f, b.metadata); err != nil {
		return err
	}
	b.Layout = SingleFile
	b.leaveOut(b.checkpoint.LeftOut())
	if !b.Has(ldm.VAE) && !b.Has(ldm.Text) && !b.Has(ldm.Text2) {
		b.Layout = UNetFile
	}
	b.files = map[string][]byte{}
	for key, text := range b.metadata {
		name, ok := strings.CutPrefix(key, metadataFile)
		if ok && slices.Contains(smallFiles(), name) {
			b.files[name] = []byte(text)
		}
	}
	if opt.Config != "" {
		if err := b.readConfig(opt.Config); err != nil {
			return err
		}
	}
	if err := b.derive(); err != nil {
		return err
	}
	return b.CheckAll()
}

// readConfig takes the small files of a folder. A tokenizer there takes the place of the whole one in the metadata.
func (b *Bundle) readConfig(folder string) error {
	read := map[string][]byte{}
	for _, name := range smallFiles() {
		content, err := os.ReadFile(filepath.Join(folder, filepath.FromSlash(name)))
		if err == nil {
			read[name] = content
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(read) == 0 {
		return fmt.Errorf("%s: no file of a diffusers directory is there, such as %s/config.json or tokenizer/vocab.json: %w", folder, ldm.UNet, fs.ErrNotExist)
	}
	for name := range read {
		if isTokenizer(name) {
			maps.DeleteFunc(b.files, func(own string, _ []byte) bool { return path.Dir(own) == path.Dir(name) })
		}
	}
	maps.Copy(b.files, read)
	return nil
}

// Has says whether the model has a component's weights.
func (b *Bundle) Has(component string) bool {
	if b.checkpoint != nil {
		return b.checkpoint.Has(component)
	}
	_, err := weights.ModelFiles(filepath.Join(b.Path, component))
	return err == nil
}

// Kind is the kind of model, by the text encoders that its model_index.json lists or that are there; of a UNet alone, by
// what it takes.
func (b *Bundle) Kind() *family.Kind {
	if b.kind == nil {
		b.kind = b.findKind()
	}
	return b.kind
}

func (b *Bundle) findKind() *family.Kind {
	if b.Layout == Directory {
		listed := map[string]json.RawMessage{}
		if raw, err := b.ownFile(indexFile); err == nil {
			_ = text.JSON(raw, &listed) // whoever reads it tells
		}
		k := family.Of(func(folder string) bool {
			_, err := os.Stat(filepath.Join(b.Path, folder, "config.json"))
			return err == nil || listed[folder] != nil && !strings.Contains(string(listed[folder]), "null")
		})
		if k == nil {
			return family.SDXL
		}
		return k
	}
	switch b.checkpoint.Family() {
	case ldm.SD1, ldm.SD2, ldm.SDInpainting:
		return family.SD
	}
	return family.SDXL
}

// EmptyIsZeros says whether the empty prompt is zeros in place of an encoded text: by model_index.json, or as is usual for the
// kind.
func (b *Bundle) EmptyIsZeros() (bool, error) {
	settings := struct {
		Zeros bool `json:"force_zeros_for_empty_prompt"`
	}{b.Kind().ZeroEmpty}
	raw, err := b.ownFile(indexFile)
	if err == nil {
		if err = text.JSON(raw, &settings); err != nil {
			err = fmt.Errorf("%s: %w", filepath.Join(b.Path, indexFile), err)
		}
	}
	return settings.Zeros, err
}

// Components are the folders of the kind's parts.
func (b *Bundle) Components() []string { return append([]string{ldm.UNet, ldm.VAE}, b.Kind().Text...) }

// Complete says whether all components are there; the error names one that is not.
func (b *Bundle) Complete() error {
	for _, component := range b.Components() {
		if b.Layout == Directory {
			if _, err := weights.ModelFiles(filepath.Join(b.Path, component)); err != nil {
				return err
			}
		} else if !b.Has(component) {
			have := slices.DeleteFunc(b.Components(), func(c string) bool { return !b.Has(c) })
			return fmt.Errorf("%s: it holds no %s, only %s", b.Path, component, strings.Join(have, ", "))
		}
	}
	return nil
}

// Weights gives a component's tensors under diffusers' names, valid until the bundle is closed.
func (b *Bundle) Weights(component string) (weights.Source, error) {
	switch {
	case b.replaced[component] != nil:
		return b.replaced[component], nil
	case b.read[component] != nil:
		return b.read[component], nil
	}
	var src weights.Source
	var err error
	if b.checkpoint != nil {
		src, err = b.checkpoint.Component(component)
	} else {
		var left []string
		if src, left, err = OpenComponent(b.Path, component); err == nil {
			b.opened = append(b.opened, src)
			b.leaveOut(left)
		}
	}
	if err != nil {
		return nil, err
	}
	name := component + "/config.json"
	if config, err := b.File(name); err == nil {
		var left []string
		src, left = Own(component, src, config, name)
		b.leaveOut(left)
		b.read[component] = src
	}
	return src, nil
}

// OpenComponent opens a component's folder in a model directory, which may lack the others, under diffusers' names, and
// lists the tensors in it that are none of the component's.
func OpenComponent(dir, component string) (weights.Source, []string, error) {
	folder := filepath.Join(dir, component)
	src, err := weights.OpenModel(folder)
	if err != nil {
		return nil, nil, err
	}
	if !slices.Contains(ldm.Components, component) {
		return src, nil, nil
	}
	named, left, err := ldm.Component(folder, component, src)
	if err != nil {
		return nil, nil, errors.Join(err, src.Close())
	}
	return named, left, nil
}

// File gives one of the small files of a diffusers directory, "unet/config.json", wherever it comes from; the scheduler's
// config says what Prediction does. A file that the model does not have is fs.ErrNotExist.
func (b *Bundle) File(name string) ([]byte, error) {
	if content, ok := b.replacedFiles[name]; ok {
		return content, nil
	}
	content, err := b.ownFile(name)
	if err == nil && name == indexFile {
		return b.index(content), nil
	}
	if err != nil || name != schedulerFile {
		return content, err
	}
	kind, _, err := b.Prediction()
	if err != nil {
		return nil, err
	}
	return kind.Schedule(content)
}

const indexFile = "model_index.json"

// index is a model_index.json without the parts that a bundle does not carry, such as Stable Diffusion 1's safety checker:
// where one is listed and its folder is not there, diffusers loads nothing.
func (b *Bundle) index(raw []byte) []byte {
	listed := object{}
	if err := text.JSON(raw, &listed); err != nil {
		return raw // whoever reads it tells
	}
	carried := []string{"scheduler"}
	for _, component := range b.Components() {
		carried = append(carried, component, tokenizerOf[component])
	}
	changed := false
	for key, value := range listed {
		if pair, ok := value.([]any); !ok || len(pair) != 2 || pair[0] == nil || slices.Contains(carried, key) {
			continue
		}
		listed[key], changed = []any{nil, nil}, true
		if _, ok := listed["requires_safety_checker"]; ok && key == "safety_checker" {
			listed["requires_safety_checker"] = false
		}
	}
	if !changed {
		return raw
	}
	return indented(listed)
}

func (b *Bundle) ownFile(name string) ([]byte, error) {
	if b.files == nil {
		return os.ReadFile(filepath.Join(b.Path, filepath.FromSlash(name)))
	}
	for component, folder := range tokenizerOf {
		if path.Dir(name) == folder && b.Has(component) && !b.hasTokenizer(folder) {
			if err := b.findTokenizer(component); err != nil {
				return nil, err
			}
		}
	}
	content, ok := b.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: it holds no %s: %w", b.Path, name, fs.ErrNotExist)
	}
	return content, nil
}

// Metadata of a single file, of a UNet file, or of a directory's UNet: modelspec, lineage, and the sampler the weights
// are made for, without the small files.
func (b *Bundle) Metadata() (map[string]string, error) {
	metadata := b.metadata
	if b.replacedMetadata != nil {
		metadata = b.replacedMetadata
	} else if b.files == nil {
		files, err := weights.ModelFiles(filepath.Join(b.Path, ldm.UNet))
		if err != nil || len(files) != 1 {
			return nil, err
		}
		f, err := weights.Open(files[0])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		metadata = f.Metadata()
	}
	metadata = maps.Clone(metadata)
	maps.DeleteFunc(metadata, func(key, _ string) bool { return strings.HasPrefix(key, metadataFile) })
	return metadata, nil
}

// LeftOut are the tensors that no component has; of a directory, those of the components that were asked for.
func (b *Bundle) LeftOut() []string { return b.leftOut }

// Close closes all files.
func (b *Bundle) Close() error {
	var failed error
	for _, s := range b.opened {
		failed = errors.Join(failed, s.Close())
	}
	return failed
}
