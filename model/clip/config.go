// Package clip is the text and image towers of transformers' CLIP as blocks (CLIPTextModel,
// CLIPTextModelWithProjection, CLIPModel), and CLIP's byte-pair tokenizer.
// Everything is read from the model's config.json and its tokenizer's files.
package clip

import (
	"encoding/json"
	"fewstep/internal/text"
	"fmt"
	"os"
	"slices"
)

// Tower holds the config keys that both transformers share, under transformers' names.
type Tower struct {
	HiddenSize       int     `json:"hidden_size"`
	IntermediateSize int     `json:"intermediate_size"`
	Layers           int     `json:"num_hidden_layers"`
	Heads            int     `json:"num_attention_heads"`
	Activation       string  `json:"hidden_act"` // quick_gelu or gelu
	NormEps          float64 `json:"layer_norm_eps"`
	ProjectionDim    int     `json:"projection_dim"`
}

// TextConfig decides the structure of a text encoder.
type TextConfig struct {
	Tower
	VocabSize    int  `json:"vocab_size"`
	MaxPositions int  `json:"max_position_embeddings"`
	EOSTokenID   int  `json:"eos_token_id"`
	Projected    bool `json:"-"` // there is a text_projection: CLIPTextModelWithProjection or CLIPModel
}

// VisionConfig decides the structure of an image encoder.
type VisionConfig struct {
	Tower
	Channels  int `json:"num_channels"`
	ImageSize int `json:"image_size"`
	PatchSize int `json:"patch_size"`
}

// modelConfig is what the towers' configs are found in: a tower's own config.json, or a CLIPModel's with both inside.
// The _dict keys are an older spelling that takes precedence, as in transformers.
type modelConfig struct {
	Architectures    []string        `json:"architectures"`
	ModelType        string          `json:"model_type"`
	ProjectionDim    *int            `json:"projection_dim"`
	TextConfig       json.RawMessage `json:"text_config"`
	TextConfigDict   json.RawMessage `json:"text_config_dict"`
	VisionConfig     json.RawMessage `json:"vision_config"`
	VisionConfigDict json.RawMessage `json:"vision_config_dict"`
}

// LoadTextConfig reads and checks the config.json of a CLIPTextModel, a CLIPTextModelWithProjection or a CLIPModel.
// Absent keys have transformers' defaults.
func LoadTextConfig(path string) (*TextConfig, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseTextConfig(raw, path)
}

// ParseTextConfig reads and checks the content of such a config.json; path is for messages.
func ParseTextConfig(raw []byte, path string) (*TextConfig, error) {
	c := &TextConfig{Tower: Tower{HiddenSize: 512, IntermediateSize: 2048, Layers: 12, Heads: 8,
		Activation: "quick_gelu", NormEps: 1e-5, ProjectionDim: 512},
		VocabSize: 49408, MaxPositions: 77, EOSTokenID: 49407}
	m, err := load(raw, path, c, func(m *modelConfig) []json.RawMessage {
		return []json.RawMessage{m.TextConfig, m.TextConfigDict}
	})
	if err != nil {
		return nil, err
	}
	c.Projected = m.ModelType == "clip" ||
		slices.Contains(m.Architectures, "CLIPTextModelWithProjection") || slices.Contains(m.Architectures, "CLIPModel")
	if m.ModelType == "clip" && m.ProjectionDim != nil {
		c.ProjectionDim = *m.ProjectionDim
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// LoadVisionConfig reads and checks the config.json of a CLIPModel or a CLIPVisionModelWithProjection.
// Absent keys have transformers' defaults.
func LoadVisionConfig(path string) (*VisionConfig, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &VisionConfig{Tower: Tower{HiddenSize: 768, IntermediateSize: 3072, Layers: 12, Heads: 12,
		Activation: "quick_gelu", NormEps: 1e-5, ProjectionDim: 512},
		Channels: 3, ImageSize: 224, PatchSize: 32}
	m, err := load(raw, path, c, func(m *modelConfig) []json.RawMessage {
		return []json.RawMessage{m.VisionConfig, m.VisionConfigDict}
	})
	if err != nil {
		return nil, err
	}
	if m.ModelType == "clip" && m.ProjectionDim != nil {
		c.ProjectionDim = *m.ProjectionDim
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// load fills into from the whole file, or from the given parts of a CLIPModel's file.
func load(raw []byte, path string, into any, parts func(*modelConfig) []json.RawMessage) (*modelConfig, error) {
	m := &modelConfig{}
	content, err := text.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal([]byte(content), m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	from := []json.RawMessage{json.RawMessage(content)}
	if m.ModelType == "clip" {
		from = parts(m)
	}
	for _, part := range from {
		if len(part) == 0 {
			continue
		}
		if err := json.Unmarshal(part, into); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return m, nil
}

// Validate says in a sentence why a config is not one that this package can build.
func (c *TextConfig) Validate() error {
	if c.VocabSize <= 0 || c.MaxPositions <= 0 {
		return fmt.Errorf("vocab_size is %d and max_position_embeddings %d: both must be positive", c.VocabSize, c.MaxPositions)
	}
	return c.Tower.validate()
}

// Validate says in a sentence why a config is not one that this package can build.
func (c *VisionConfig) Validate() error {
	if c.Channels <= 0 || c.ImageSize <= 0 || c.PatchSize <= 0 || c.ImageSize < c.PatchSize {
		return fmt.Errorf("image_size is %d, patch_size %d, num_channels %d: all must be positive and a patch no larger than the image", c.ImageSize, c.PatchSize, c.Channels)
	}
	return c.Tower.validate()
}

func (c *Tower) validate() error {
	switch {
	case c.HiddenSize <= 0 || c.IntermediateSize <= 0 || c.Layers <= 0 || c.Heads <= 0 || c.ProjectionDim <= 0:
		return fmt.Errorf("hidden_size, intermediate_size, num_hidden_layers, num_attention_heads and projection_dim must all be positive")
	case c.HiddenSize%c.Heads != 0:
		return fmt.Errorf("hidden_size %d does not divide into %d attention heads", c.HiddenSize, c.Heads)
	case c.Activation != "quick_gelu" && c.Activation != "gelu":
		return fmt.Errorf("hidden_act %q is not supported, only quick_gelu and gelu", c.Activation)
	case !(c.NormEps > 0):
		return fmt.Errorf("layer_norm_eps is %g: it must be positive", c.NormEps)
	}
	return nil
}

// legacyEOS is the wrong end-of-text id in the configs of OpenAI's models and of what came from them. transformers
// takes the position of the largest id where it stands, and so do we.
const legacyEOS = 2

// EOSPosition is where in a sequence the pooled embedding is read: at the first end-of-text token.
// Without one it is 0, as in transformers.
func (c *TextConfig) EOSPosition(ids []int32) int32 {
	at := 0
	for i, id := range ids {
		if c.EOSTokenID == legacyEOS {
			if id > ids[at] {
				at = i
			}
		} else if int(id) == c.EOSTokenID {
			return int32(i)
		}
	}
	return int32(at)
}
