package export

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/prediction"
	"fewstep/model/unet"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// metadataOf describes an export file: modelspec, lineage and the sampler its weights need. It has no date.
// Its hash is added when the file is written.
func metadataOf(d *rundir.Dir, c *configs.Recipe, s distill.Step) (map[string]string, error) {
	recipe, err := d.Config() // as the run was started, wherever its model lies now
	if err != nil {
		return nil, err
	}
	base, err := bundle.Open(c.ModelPath(), bundle.Options{})
	if err != nil {
		return nil, err
	}
	defer base.Close()
	network, err := unetOf(base)
	if err != nil {
		return nil, err
	}
	architecture := cmp.Or(network.Architecture(), network.Family())
	what := "UNet"
	if IsLoRA(s) {
		architecture += "/lora"
		what = "LoRA"
	}
	spec := weights.ModelSpec{
		Architecture:   architecture,
		Implementation: "diffusers",
		Title:          fmt.Sprintf("%s, %d-step %s", c.Name, s.StudentSteps, what),
		Width:          c.Data.Resolution,
		Height:         c.Data.Resolution,
		PredictionType: s.Prediction.String(),
		BaseSHA256:     d.Lineage().BaseWeights,
		Stage:          s.Path(),
		ConfigSHA256:   fmt.Sprintf("%x", sha256.Sum256(recipe)),
		SamplerSteps:   s.StudentSteps,
		Spacing:        samplerOf(s).spacing,
		Sampler:        s.Sampler,
		OriginalSteps:  s.Original,
	}
	metadata, err := spec.Metadata()
	if err != nil {
		return nil, err
	}
	kind, err := predicts(base, s)
	if err != nil {
		return nil, err
	}
	kind.Describe(metadata)
	return metadata, nil
}

// predicts is what a step's network predicts, on the noise of the base model.
func predicts(base *bundle.Bundle, s distill.Step) (prediction.Type, error) {
	kind, _, err := base.Prediction()
	kind.Target = s.Prediction.String()
	return kind, err
}

// Published says whether a recipe's base model is of a published model's size, which other programs know.
func Published(c *configs.Recipe) (bool, error) {
	base, err := bundle.Open(c.ModelPath(), bundle.Options{})
	if err != nil {
		return false, err
	}
	defer base.Close()
	network, err := unetOf(base)
	return err == nil && network.Architecture() != "", err
}

// unetOf is the structure of a model's UNet.
func unetOf(model *bundle.Bundle) (*unet.Config, error) {
	raw, err := model.File("unet/config.json")
	if err != nil {
		return nil, err
	}
	return unet.ParseConfig(raw, filepath.Join(model.Path, "unet", "config.json"))
}

// sampler is what draws with exported weights, in the words of diffusers and of ComfyUI.
type sampler struct {
	class, spacing string // of diffusers' scheduler
	name, sampling string // of ComfyUI's KSampler, and of ModelSamplingDiscrete in place of the prediction
}

// samplerOf is that of a student: Euler on the trailing grid, or what its method made it for.
func samplerOf(s distill.Step) sampler {
	if s.Sampler == "lcm" {
		return sampler{class: "LCMScheduler", spacing: "leading", name: "lcm", sampling: "lcm"}
	}
	return sampler{class: "EulerDiscreteScheduler", spacing: "trailing", name: "euler"}
}

// schedulerConfig is the base model's scheduler_config.json as the few-step weights need it: their sampler, and what the
// network predicts.
func schedulerConfig(model *bundle.Bundle, s distill.Step) ([]byte, error) {
	const name = "scheduler/scheduler_config.json"
	raw, err := model.File(name)
	if err != nil {
		return nil, err
	}
	settings := map[string]any{}
	if err := json.Unmarshal(raw, &settings); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", model.Path, name, err)
	}
	settings["_class_name"], settings["timestep_spacing"] = samplerOf(s).class, samplerOf(s).spacing
	settings["prediction_type"] = s.Prediction.String()
	for _, other := range []string{"skip_prk_steps", "set_alpha_to_one", "clip_sample", "sample_max_value"} {
		delete(settings, other) // keys of other schedulers
	}
	if s.Original > 0 {
		settings["original_inference_steps"] = s.Original
	}
	return indented(settings)
}

func indented(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}
