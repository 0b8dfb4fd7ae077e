package export

import (
	"fmt"
	"path/filepath"
	"strings"

	"fewstep/distill"
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
}

type link [2]any

// workflow draws one picture with the exported weights in ComfyUI: Euler, sgm_uniform (the trailing grid), cfg 1, as
// many steps as the student has, and the x0 model-sampling node where the network predicts x0. Text encoders, VAE
// and, under a LoRA, the UNet come from a checkpoint file of the base model, which the user chooses.
func workflow(c *distill.Config, s distill.Step, weightsFile string) []byte {
	loader := node{"UNETLoader", map[string]any{"unet_name": weightsFile, "weight_dtype": "default"}}
	if IsLoRA(s) {
		loader = node{"LoraLoaderModelOnly", map[string]any{"model": link{"1", 0}, "lora_name": weightsFile, "strength_model": 1.0}}
	}
	base := strings.TrimSuffix(filepath.Base(c.Model), ".safetensors") + ".safetensors"
	return draw(c, s, base, map[string]node{"2": loader}, link{"2", 0})
}

// checkpointWorkflow is the workflow of a single file, which holds everything.
func checkpointWorkflow(c *distill.Config, s distill.Step, file string) []byte {
	return draw(c, s, file, map[string]node{}, link{"1", 0})
}

// draw adds to the nodes that give the model those that draw a picture with it; checkpoint has text encoders and VAE.
func draw(c *distill.Config, s distill.Step, checkpoint string, nodes map[string]node, model link) []byte {
	for id, n := range map[string]node{
		"1": {"CheckpointLoaderSimple", map[string]any{"ckpt_name": checkpoint}},
		"4": {"CLIPTextEncode", map[string]any{"clip": link{"1", 1}, "text": "a photo of a cat"}},
		"5": {"CLIPTextEncode", map[string]any{"clip": link{"1", 1}, "text": ""}},
		"6": {"EmptyLatentImage", map[string]any{"width": c.Data.Resolution, "height": c.Data.Resolution, "batch_size": 1}},
		"8": {"VAEDecode", map[string]any{"samples": link{"7", 0}, "vae": link{"1", 2}}},
		"9": {"SaveImage", map[string]any{"images": link{"8", 0}, "filename_prefix": fmt.Sprintf("%s_%dstep", c.Name, s.StudentSteps)}},
	} {
		nodes[id] = n
	}
	if s.Prediction == distill.Sample {
		nodes["3"] = node{"ModelSamplingDiscrete", map[string]any{"model": model, "sampling": "x0", "zsnr": false}}
		model = link{"3", 0}
	}
	nodes["7"] = node{"KSampler", map[string]any{"model": model, "positive": link{"4", 0}, "negative": link{"5", 0},
		"latent_image": link{"6", 0}, "seed": 1, "steps": s.StudentSteps, "cfg": 1.0,
		"sampler_name": "euler", "scheduler": "sgm_uniform", "denoise": 1.0}}
	b, err := indented(nodes)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}
