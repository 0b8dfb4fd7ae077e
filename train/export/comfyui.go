package export

import (
	"fmt"
	"path/filepath"
	"strings"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/prediction"
)

// workflowName is the ComfyUI workflow beside a weights file.
func workflowName(s distill.Step) string {
	kind := "unet"
	if IsLoRA(s) {
		kind = "lora"
	}
	return fmt.Sprintf("%dstep_%s_comfyui.json", s.StudentSteps, kind)
}

// node is one node of a ComfyUI workflow in API format. An input is a value, or link{node, output}.
type node struct {
	Class  string         `json:"class_type"`
	Inputs map[string]any `json:"inputs"`
	Meta   *meta          `json:"_meta,omitempty"`
}

// meta is what ComfyUI shows of a node beside its inputs.
type meta struct {
	Title string `json:"title"`
}

type link [2]any

// workflow draws one picture with exported weights in ComfyUI: Euler, sgm_uniform (the trailing grid), cfg 1, as many steps
// as the student has, and the model-sampling node where the network predicts something else than the noise. Text encoders,
// VAE and, under a LoRA, the UNet come from a checkpoint file of the base model.
func workflow(b basis, s distill.Step, weightsFile string, ldmNames bool) []byte {
	loader := node{Class: "UNETLoader", Inputs: map[string]any{"unet_name": weightsFile, "weight_dtype": "default"}}
	if IsLoRA(s) {
		loader = node{Class: "LoraLoaderModelOnly", Inputs: map[string]any{"model": link{"1", 0}, "lora_name": weightsFile, "strength_model": 1.0}}
	} else if !ldmNames {
		loader.Meta = &meta{"Load the UNet (ComfyUI logs 20 lines about keys that a UNet of diffusers' names lacks: they are harmless)"}
	}
	return b.draw(s, b.checkpoint(), map[string]node{"2": loader}, link{"2", 0})
}

// checkpointWorkflow is the workflow of a single file, which holds everything.
func checkpointWorkflow(b basis, s distill.Step, file string) []byte {
	return b.draw(s, file, map[string]node{}, link{"1", 0})
}

// basis is what workflows need to know of a run's base model.
type basis struct {
	config *configs.Recipe
	kind   prediction.Type // of the base

	published string // modelspec's name of a published model's size, which ComfyUI knows; "" = another
}

func basisOf(c *configs.Recipe, base *bundle.Bundle) (b basis, err error) {
	b.config = c
	if b.kind, _, err = base.Prediction(); err != nil {
		return b, err
	}
	network, err := unetOf(base)
	if err == nil {
		b.published = network.Architecture()
	}
	return b, err
}

// publicBase are the usual names of published models' checkpoint files.
var publicBase = map[string]string{
	"stable-diffusion-xl-v1-base": "sd_xl_base_1.0.safetensors", "stable-diffusion-v1": "v1-5-pruned-emaonly.safetensors",
	"stable-diffusion-v2-512": "v2-1_512-ema-pruned.safetensors", "stable-diffusion-v2-768-v": "v2-1_768-ema-pruned.safetensors",
}

// checkpoint is a guess at the base model's file in ComfyUI's folder: its own name where it is one, else the public one's.
func (b basis) checkpoint() string {
	name := filepath.Base(b.config.Model)
	switch {
	case strings.HasSuffix(name, ".safetensors"):
		return name
	case b.published != "":
		return publicBase[b.published]
	}
	return name + ".safetensors"
}

// draw adds to the nodes that give the model those that draw a picture with it; checkpoint has text encoders and VAE.
func (b basis) draw(s distill.Step, checkpoint string, nodes map[string]node, model link) []byte {
	c := b.config
	first := node{Class: "CheckpointLoaderSimple", Inputs: map[string]any{"ckpt_name": checkpoint}}
	if b.published == "" {
		first.Meta = &meta{"Load the checkpoint (ComfyUI knows models of published widths and depths alone; this one has others)"}
	}
	for id, n := range map[string]node{
		"1": first,
		"4": {Class: "CLIPTextEncode", Inputs: map[string]any{"clip": link{"1", 1}, "text": "a photo of a cat"}},
		"5": {Class: "CLIPTextEncode", Inputs: map[string]any{"clip": link{"1", 1}, "text": ""}},
		"6": {Class: "EmptyLatentImage", Inputs: map[string]any{"width": c.Data.Resolution, "height": c.Data.Resolution, "batch_size": 1}},
		"8": {Class: "VAEDecode", Inputs: map[string]any{"samples": link{"7", 0}, "vae": link{"1", 2}}},
		"9": {Class: "SaveImage", Inputs: map[string]any{"images": link{"8", 0}, "filename_prefix": fmt.Sprintf("%s_%dstep", c.Name, s.StudentSteps)}},
	} {
		nodes[id] = n
	}
	sampling := map[distill.Prediction]string{distill.Epsilon: "eps", distill.Velocity: "v_prediction", distill.Sample: "x0"}[s.Prediction]
	if own := samplerOf(s).sampling; own != "" {
		sampling = own
	}
	if sampling != "eps" || b.kind.ZeroSNR {
		nodes["3"] = node{Class: "ModelSamplingDiscrete", Inputs: map[string]any{"model": model, "sampling": sampling, "zsnr": b.kind.ZeroSNR}}
		model = link{"3", 0}
	}
	nodes["7"] = node{Class: "KSampler", Inputs: map[string]any{"model": model, "positive": link{"4", 0}, "negative": link{"5", 0},
		"latent_image": link{"6", 0}, "seed": 1, "steps": s.StudentSteps, "cfg": 1.0,
		"sampler_name": samplerOf(s).name, "scheduler": "sgm_uniform", "denoise": 1.0}}
	out, err := indented(nodes)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return out
}
