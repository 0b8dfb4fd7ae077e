// Package pipeline reads a text-to-image model, a diffusers directory or a single file, and writes directories: UNet,
// VAE, CLIP text encoders with their tokenizers, and the scheduler's settings. Architectures come from the config
// files, or from the shapes in a single file (package bundle).
package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"fewstep/model/bundle"
	"fewstep/model/clip"
	"fewstep/model/family"
	"fewstep/model/ldm"
	"fewstep/model/nn"
	"fewstep/model/process"
	"fewstep/model/unet"
	"fewstep/model/vae"
	"fewstep/model/weights"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Components of a diffusers directory that hold weights, and the file each keeps them in.
var files = map[string]string{
	"unet":           "diffusion_pytorch_model.safetensors",
	"vae":            "diffusion_pytorch_model.safetensors",
	"text_encoder":   "model.safetensors",
	"text_encoder_2": "model.safetensors",
	"clip":           "model.safetensors", // not diffusers': the CLIPModel that fewstep's mini metrics use
}

// Pipeline is a model: its structure, not its weights.
type Pipeline struct {
	Dir        string // or the single file
	Config     string // a folder with what the single file lacks; may be empty
	UNet       *unet.Config
	VAE        *vae.Config
	Kind       *family.Kind
	Text       []*clip.TextConfig // in the order of Kind.Text
	Tokenizer  []*clip.Tokenizer
	Vision     *clip.VisionConfig // nil when the directory has no clip folder
	Schedule   *process.Schedule
	Prediction process.Prediction
	Notes      []string // what the model says about itself that contradicts something else
	Scheduler  []byte   // scheduler_config.json, of which samplers read more than Schedule and Prediction
	ZeroEmpty  bool     // a missing negative prompt is zero embeddings, not the encoded empty text
}

// Open reads every config of a model directory or of a single file.
func Open(dir string) (*Pipeline, error) { return OpenWith(dir, "") }

// OpenWith is Open with configurations and tokenizers from a folder, for a single file (see [bundle.Options]).
func OpenWith(dir, folder string) (*Pipeline, error) {
	b, err := bundle.Open(dir, bundle.Options{Config: folder})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Layout == bundle.UNetFile {
		return nil, fmt.Errorf("%s is a UNet alone, without text encoders and VAE: name it as the UNet of a whole model", dir)
	}
	p := &Pipeline{Dir: dir, Config: folder}
	p.Kind = b.Kind()
	if p.ZeroEmpty, err = b.EmptyIsZeros(); err != nil {
		return nil, err
	}
	if p.UNet, err = config(b, "unet/config.json", unet.ParseConfig); err != nil {
		return nil, err
	}
	if p.VAE, err = config(b, "vae/config.json", vae.ParseConfig); err != nil {
		return nil, err
	}
	for _, component := range p.Kind.Text {
		text, err := config(b, component+"/config.json", clip.ParseTextConfig)
		if err != nil {
			return nil, err
		}
		tokenizer, err := b.Tokenizer(component)
		if err != nil {
			return nil, err
		}
		p.Text, p.Tokenizer = append(p.Text, text), append(p.Tokenizer, tokenizer)
	}
	path := filepath.Join(dir, "scheduler", "scheduler_config.json")
	raw, err := b.File("scheduler/scheduler_config.json")
	if err != nil {
		return nil, err
	}
	if p.Schedule, p.Prediction, err = process.ParseScheduler(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p.Scheduler = raw
	if _, p.Notes, err = b.Prediction(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "clip", "config.json")); err == nil {
		if p.Vision, err = clip.LoadVisionConfig(filepath.Join(dir, "clip", "config.json")); err != nil {
			return nil, err
		}
	}
	return p, p.check()
}

// config reads one of a model's config files.
func config[T any](b *bundle.Bundle, name string, parse func(raw []byte, path string) (T, error)) (T, error) {
	raw, err := b.File(name)
	if err != nil {
		var none T
		return none, err
	}
	return parse(raw, filepath.Join(b.Path, filepath.FromSlash(name)))
}

// check says where the components do not fit each other.
func (p *Pipeline) check() error {
	if p.UNet.InChannels > p.VAE.LatentChannels && p.UNet.InChannels > p.UNet.OutChannels {
		return fmt.Errorf("%s: its UNet takes %d channels, a mask or a second picture beside the %d of the noise, as inpainting models do: fewstep converts and merges such models, and neither draws with them nor distils them", p.Dir, p.UNet.InChannels, p.VAE.LatentChannels)
	}
	if err := p.Kind.Fits(p.UNet, p.Text); err != nil {
		return fmt.Errorf("%s: %w", p.Dir, err)
	}
	if p.VAE.LatentChannels != p.UNet.InChannels {
		return fmt.Errorf("%s: the VAE has %d latent channels, the UNet takes %d", p.Dir, p.VAE.LatentChannels, p.UNet.InChannels)
	}
	return nil
}

// Tokens is the length of a prompt in tokens.
func (p *Pipeline) Tokens() int { return p.Text[0].MaxPositions }

// UNetSpecs lists the UNet's parameters, with adapters if lora is not nil.
func (p *Pipeline) UNetSpecs(b compute.Backend, lora *nn.LoRA) ([]nn.Spec, error) {
	return nn.Trace(b, p.UNet.Network("", lora), p.UNetInputs(1, Square(p.Multiple()))...)
}

// TextShapes are the inputs of a text encoder for a batch: token ids and end-of-text positions.
func (p *Pipeline) TextShapes(batch int) []shapes.Shape {
	return []shapes.Shape{shapes.Make(dtypes.Int32, batch, p.Tokens()), shapes.Make(dtypes.Int32, batch)}
}

// VAESpecs lists the autoencoder's parameters.
func (p *Pipeline) VAESpecs(b compute.Backend) ([]nn.Spec, error) {
	side := 8 * p.Factor()
	return nn.Trace(b, p.VAE.Autoencoder(""), shapes.Make(dtypes.Float32, 1, side, side, 3), shapes.Make(dtypes.Float32, 1, 8, 8, p.VAE.LatentChannels))
}

// Read returns a component's tensors, as f32. Values that are not finite are an error.
func Read(dir, component string) (nn.Tensors, error) {
	src, err := OpenWeights(dir, component)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	read, out := Reader(src), nn.Tensors{}
	for _, name := range src.Names() {
		if out[name], err = read(nn.Spec{Name: name}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Reader gives the f32 values of src's tensors for engine.LoadFunc, one at a time: the host never holds them all.
// Values that are not finite are an error.
func Reader(src weights.Source) func(nn.Spec) ([]float32, error) {
	return func(s nn.Spec) ([]float32, error) {
		t, err := src.Tensor(s.Name)
		if err != nil {
			return nil, err
		}
		return t.Finite()
	}
}

// OpenWeights opens a component's tensors, under diffusers' names, in a model directory, which may lack the other
// components, or in a single file.
func OpenWeights(dir, component string) (weights.Source, error) {
	if info, err := os.Stat(dir); err != nil || info.IsDir() {
		src, _, err := bundle.OpenComponent(dir, component)
		return src, err
	}
	c, err := ldm.Open(dir)
	if err != nil {
		return nil, err
	}
	src, err := c.Component(component)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return part{src, c}, nil
}

// part is a component of a single file, which it closes.
type part struct {
	weights.Source
	file *ldm.Checkpoint
}

func (p part) Close() error { return p.file.Close() }

// Write saves tensors as a component's weights file, in the order and with the shapes of specs.
func Write(dir, component string, specs []nn.Spec, values nn.Tensors, to weights.DType, metadata map[string]string) error {
	file, ok := files[component]
	if !ok {
		return fmt.Errorf("no component %q", component)
	}
	return WriteFile(filepath.Join(dir, component, file), specs, values, to, metadata)
}

// WriteFile saves tensors as one safetensors file.
func WriteFile(path string, specs []nn.Spec, values nn.Tensors, to weights.DType, metadata map[string]string) error {
	return WriteFunc(path, specs, values.Value, to, metadata)
}

// WriteFunc is WriteFile of values that are asked for one by one, while they are written.
func WriteFunc(path string, specs []nn.Spec, value func(nn.Spec) ([]float32, error), to weights.DType, metadata map[string]string) error {
	tensors := make([]weights.Tensor, len(specs))
	for i, s := range specs {
		tensors[i] = weights.Tensor{Name: s.Name, DType: to, Shape: s.Dims, Fill: func() ([]byte, error) {
			v, err := value(s)
			if err != nil {
				return nil, err
			}
			return weights.Encode(v, to)
		}}
	}
	return weights.Write(path, tensors, metadata)
}
