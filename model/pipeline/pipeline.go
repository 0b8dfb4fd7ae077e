// Package pipeline reads a text-to-image model, a diffusers directory or a single file, and writes directories: UNet,
// VAE, two CLIP text encoders with their tokenizers, and the scheduler's settings. Architectures come from the config
// files, or from the shapes in a single file (package bundle).
package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/internal/text"
	"fewstep/model/bundle"
	"fewstep/model/clip"
	"fewstep/model/ldm"
	"fewstep/model/nn"
	"fewstep/model/unet"
	"fewstep/model/vae"
	"fewstep/model/weights"

	"github.com/gomlx/compute"
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
	Text       [2]*clip.TextConfig
	Tokenizer  [2]*clip.Tokenizer
	Vision     *clip.VisionConfig // nil when the directory has no clip folder
	Schedule   *distill.Schedule
	Prediction distill.Prediction
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
	if p.ZeroEmpty, err = config(b, "model_index.json", zeroEmpty); err != nil {
		return nil, err
	}
	if p.UNet, err = config(b, "unet/config.json", unet.ParseConfig); err != nil {
		return nil, err
	}
	if p.VAE, err = config(b, "vae/config.json", vae.ParseConfig); err != nil {
		return nil, err
	}
	for i, component := range []string{ldm.Text, ldm.Text2} {
		if p.Text[i], err = config(b, component+"/config.json", clip.ParseTextConfig); err != nil {
			return nil, err
		}
		if p.Tokenizer[i], err = b.Tokenizer(component); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(dir, "scheduler", "scheduler_config.json")
	raw, err := b.File("scheduler/scheduler_config.json")
	if err != nil {
		return nil, err
	}
	if p.Schedule, p.Prediction, err = distill.ParseScheduler(raw); err != nil {
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

// zeroEmpty reads what a model_index.json says about an empty prompt; diffusers' default is zeros.
func zeroEmpty(raw []byte, path string) (bool, error) {
	settings := struct {
		ZeroEmpty bool `json:"force_zeros_for_empty_prompt"`
	}{true}
	if err := text.JSON(raw, &settings); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return settings.ZeroEmpty, nil
}

// check says where the components do not fit each other.
func (p *Pipeline) check() error {
	text := p.Text[0].HiddenSize + p.Text[1].HiddenSize
	switch {
	case p.UNet.InChannels > p.VAE.LatentChannels && p.UNet.InChannels > p.UNet.OutChannels:
		return fmt.Errorf("%s: its UNet takes %d channels, a mask or a second picture beside the %d of the noise, as inpainting models do: fewstep converts and merges such models, and neither draws with them nor distils them", p.Dir, p.UNet.InChannels, p.VAE.LatentChannels)
	case p.Text[0].MaxPositions != p.Text[1].MaxPositions:
		return fmt.Errorf("%s: text_encoder takes %d tokens and text_encoder_2 %d: their outputs do not fit together", p.Dir, p.Text[0].MaxPositions, p.Text[1].MaxPositions)
	case !p.Text[1].Projected:
		return fmt.Errorf("%s: text_encoder_2 has no text projection, SDXL's family needs one", p.Dir)
	case text != p.UNet.CrossAttentionDim:
		return fmt.Errorf("%s: the text encoders give %d+%d values a token, the UNet's cross_attention_dim is %d", p.Dir, p.Text[0].HiddenSize, p.Text[1].HiddenSize, p.UNet.CrossAttentionDim)
	case p.Text[1].ProjectionDim != p.UNet.PooledDim():
		return fmt.Errorf("%s: text_encoder_2 projects to %d values, the UNet takes %d pooled", p.Dir, p.Text[1].ProjectionDim, p.UNet.PooledDim())
	case p.VAE.LatentChannels != p.UNet.InChannels:
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

// Read returns a component's tensors, as f32. Values that are not finite are an error.
func Read(dir, component string) (engine.Tensors, error) {
	src, err := OpenWeights(dir, component)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	read, out := Reader(src), engine.Tensors{}
	for _, name := range src.Names() {
		if out[name], err = read(nn.Spec{Name: name}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Reader gives the f32 values of src's tensors for [engine.Engine.LoadFunc], one at a time: the host never holds them all.
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
func Write(dir, component string, specs []nn.Spec, values engine.Tensors, to weights.DType, metadata map[string]string) error {
	file, ok := files[component]
	if !ok {
		return fmt.Errorf("no component %q", component)
	}
	return WriteFile(filepath.Join(dir, component, file), specs, values, to, metadata)
}

// WriteFile saves tensors as one safetensors file.
func WriteFile(path string, specs []nn.Spec, values engine.Tensors, to weights.DType, metadata map[string]string) error {
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
