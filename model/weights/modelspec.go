package weights

import (
	"fmt"
	"strconv"
	"time"
)

// KeyHash is the metadata key of DataHash.
const KeyHash = "modelspec.hash_sha256"

// ModelSpec describes a saved model in the file's metadata: the keys of Stability
// AI's model metadata standard 1.0.1, which user interfaces show and loaders act
// on, then this project's lineage and the sampler settings without which the
// weights give poor images. Empty optional fields are left out.
type ModelSpec struct {
	Architecture   string    // required; "stable-diffusion-xl-v1-base", for a LoRA with "/lora" behind
	Implementation string    // required; the code whose tensor names the file has: "diffusers", "sgm"
	Title          string    // required; shown to users
	Width, Height  int       // base resolution in pixels
	PredictionType string    // "epsilon", "v_prediction" or "sample", as diffusers calls them
	Date           time.Time // when the model was made
	License        string    // name or link

	// DataHash is the function's result for the tensors; Write checks it.
	DataHash string

	BaseSHA256    string // HashFile of the pre-trained weights
	Stage         string // stage and phase that made the weights
	ConfigSHA256  string // hash of the resolved config
	SamplerSteps  int    // network calls per image
	Spacing       string // timestep spacing, "trailing"
	Sampler       string // fewstep's name of the sampler; "" = that of any student
	OriginalSteps int    // of the teacher that a consistency model was distilled from; 0 = it is none
	GuidanceScale float64
}

const (
	prefixSpec    = "modelspec."
	prefixLineage = "fewstep."
)

// Metadata gives the header's string map.
func (s ModelSpec) Metadata() (map[string]string, error) {
	for _, required := range []struct{ field, value string }{
		{"architecture", s.Architecture}, {"implementation", s.Implementation}, {"title", s.Title},
	} {
		if required.value == "" {
			return nil, fmt.Errorf("model metadata: the standard requires %s", required.field)
		}
	}
	m := map[string]string{prefixSpec + "sai_model_spec": "1.0.1"}
	put := func(key, value string) {
		if value != "" {
			m[key] = value
		}
	}
	put(prefixSpec+"architecture", s.Architecture)
	put(prefixSpec+"implementation", s.Implementation)
	put(prefixSpec+"title", s.Title)
	if s.Width > 0 && s.Height > 0 {
		put(prefixSpec+"resolution", fmt.Sprintf("%dx%d", s.Width, s.Height))
	}
	spec := s.PredictionType
	if spec == "v_prediction" {
		spec = "v" // the standard's word
	}
	put(prefixSpec+"prediction_type", spec)
	if !s.Date.IsZero() {
		put(prefixSpec+"date", s.Date.UTC().Format(time.RFC3339))
	}
	put(prefixSpec+"license", s.License)
	put(KeyHash, s.DataHash)

	put(prefixLineage+"base_sha256", s.BaseSHA256)
	put(prefixLineage+"stage", s.Stage)
	put(prefixLineage+"config_sha256", s.ConfigSHA256)
	if s.SamplerSteps > 0 {
		put(prefixLineage+"sampler.steps", strconv.Itoa(s.SamplerSteps))
		put(prefixLineage+"sampler.timestep_spacing", s.Spacing)
		put(prefixLineage+"sampler.name", s.Sampler)
		if s.OriginalSteps > 0 {
			put(prefixLineage+"sampler.original_steps", strconv.Itoa(s.OriginalSteps))
		}
		put(prefixLineage+"sampler.guidance_scale", strconv.FormatFloat(s.GuidanceScale, 'g', -1, 64))
		put(prefixLineage+"sampler.prediction_type", s.PredictionType)
	}
	return m, nil
}

// ParseModelSpec reads what Metadata writes. Missing or unreadable keys leave
// their field empty, since files come from many tools; ok says whether the
// metadata follows the standard at all.
func ParseModelSpec(m map[string]string) (s ModelSpec, ok bool) {
	_, ok = m[prefixSpec+"sai_model_spec"]
	s.Architecture = m[prefixSpec+"architecture"]
	s.Implementation = m[prefixSpec+"implementation"]
	s.Title = m[prefixSpec+"title"]
	if n, _ := fmt.Sscanf(m[prefixSpec+"resolution"], "%dx%d", &s.Width, &s.Height); n != 2 {
		s.Width, s.Height = 0, 0
	}
	s.PredictionType = m[prefixSpec+"prediction_type"]
	if s.PredictionType == "v" {
		s.PredictionType = "v_prediction"
	}
	s.Date, _ = time.Parse(time.RFC3339, m[prefixSpec+"date"])
	s.License = m[prefixSpec+"license"]
	s.DataHash = m[KeyHash]
	s.BaseSHA256 = m[prefixLineage+"base_sha256"]
	s.Stage = m[prefixLineage+"stage"]
	s.ConfigSHA256 = m[prefixLineage+"config_sha256"]
	s.SamplerSteps, _ = strconv.Atoi(m[prefixLineage+"sampler.steps"])
	s.Spacing = m[prefixLineage+"sampler.timestep_spacing"]
	s.Sampler = m[prefixLineage+"sampler.name"]
	s.OriginalSteps, _ = strconv.Atoi(m[prefixLineage+"sampler.original_steps"])
	s.GuidanceScale, _ = strconv.ParseFloat(m[prefixLineage+"sampler.guidance_scale"], 64)
	return s, ok
}
