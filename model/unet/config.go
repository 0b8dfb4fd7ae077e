// Package unet is diffusers' UNet2DConditionModel of SDXL's family as blocks: cross-attention down, mid and up
// blocks with text-time conditioning. Everything is read from the model's config.json.
package unet

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Config holds the keys of a diffusers UNet config.json that decide its structure.
type Config struct {
	ClassName         string   `json:"_class_name"`
	SampleSize        int      `json:"sample_size"` // latent side the model was made for
	InChannels        int      `json:"in_channels"`
	OutChannels       int      `json:"out_channels"`
	BlockOutChannels  []int    `json:"block_out_channels"`
	DownBlockTypes    []string `json:"down_block_types"`
	MidBlockType      string   `json:"mid_block_type"`
	UpBlockTypes      []string `json:"up_block_types"`
	LayersPerBlock    int      `json:"layers_per_block"`
	TransformerLayers intList  `json:"transformer_layers_per_block"`
	AttentionHeads    intList  `json:"attention_head_dim"` // diffusers' historic name: the number of heads per level
	NumAttentionHeads intList  `json:"num_attention_heads"`
	CrossAttentionDim int      `json:"cross_attention_dim"`
	LinearProjection  bool     `json:"use_linear_projection"`
	AdditionEmbedType string   `json:"addition_embed_type"`
	AdditionTimeDim   int      `json:"addition_time_embed_dim"`
	ProjectionDim     int      `json:"projection_class_embeddings_input_dim"` // pooled text + 6 · addition_time_embed_dim
	NormGroups        int      `json:"norm_num_groups"`
	NormEps           float64  `json:"norm_eps"`
	FlipSinToCos      bool     `json:"flip_sin_to_cos"`
	FreqShift         float64  `json:"freq_shift"`
	ActFn             string   `json:"act_fn"`
}

// TimeIDs is the number of micro-conditions: original height, width, crop top, left, target height, width.
const TimeIDs = 6

// intList is a JSON value that diffusers writes either as one number or as one per level.
type intList []int

func (l *intList) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var one int
	if json.Unmarshal(b, &one) == nil {
		*l = intList{one}
		return nil
	}
	var many []int
	if err := json.Unmarshal(b, &many); err != nil {
		return fmt.Errorf("want a number or a list of numbers, got %s", b)
	}
	*l = many
	return nil
}

func (l intList) at(level int) int {
	if len(l) == 1 {
		return l[0]
	}
	return l[level]
}

// LoadConfig reads and checks a diffusers UNet config.json.
func LoadConfig(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(raw, path)
}

// ParseConfig reads and checks the content of a config.json; path is for messages.
func ParseConfig(raw []byte, path string) (*Config, error) {
	c := &Config{NormGroups: 32, NormEps: 1e-5, LayersPerBlock: 2, TransformerLayers: intList{1}, FlipSinToCos: true,
		MidBlockType: "UNetMidBlock2DCrossAttn", ActFn: "silu"}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Validate says in a sentence why a config is not one that this package can build.
func (c *Config) Validate() error {
	n := len(c.BlockOutChannels)
	switch {
	case c.ClassName != "" && c.ClassName != "UNet2DConditionModel":
		return fmt.Errorf("this is the config of a %s, not of a UNet2DConditionModel", c.ClassName)
	case n == 0 || c.InChannels <= 0 || c.OutChannels <= 0 || c.CrossAttentionDim <= 0 || c.LayersPerBlock <= 0:
		return fmt.Errorf("in_channels, out_channels, block_out_channels, layers_per_block and cross_attention_dim must all be given and positive")
	case len(c.DownBlockTypes) != n || len(c.UpBlockTypes) != n:
		return fmt.Errorf("block_out_channels has %d levels, down_block_types %d and up_block_types %d: they must agree", n, len(c.DownBlockTypes), len(c.UpBlockTypes))
	case c.AdditionEmbedType != "text_time":
		return fmt.Errorf("addition_embed_type is %q; only SDXL's text_time conditioning is supported", c.AdditionEmbedType)
	case c.ProjectionDim <= TimeIDs*c.AdditionTimeDim || c.AdditionTimeDim <= 0:
		return fmt.Errorf("projection_class_embeddings_input_dim %d leaves no room for pooled text beside %d·%d time ids", c.ProjectionDim, TimeIDs, c.AdditionTimeDim)
	case !c.FlipSinToCos || c.FreqShift != 0:
		return fmt.Errorf("only flip_sin_to_cos=true with freq_shift=0 is supported")
	case c.ActFn != "silu" && c.ActFn != "swish":
		return fmt.Errorf("act_fn %q is not supported, only silu", c.ActFn)
	case c.MidBlockType != "UNetMidBlock2DCrossAttn":
		return fmt.Errorf("mid_block_type %q is not supported", c.MidBlockType)
	}
	for _, l := range []struct {
		key  string
		list intList
	}{{"transformer_layers_per_block", c.TransformerLayers}, {"attention_head_dim", c.heads()}} {
		if len(l.list) != 1 && len(l.list) != n {
			return fmt.Errorf("%s has %d entries, want 1 or %d", l.key, len(l.list), n)
		}
	}
	for i, ch := range c.BlockOutChannels {
		if c.NormGroups <= 0 || ch%c.NormGroups != 0 {
			return fmt.Errorf("block_out_channels[%d]=%d does not divide into norm_num_groups=%d", i, ch, c.NormGroups)
		}
		if h := c.heads().at(i); h <= 0 || ch%h != 0 {
			return fmt.Errorf("block_out_channels[%d]=%d does not divide into %d attention heads", i, ch, h)
		}
	}
	for i := range n {
		for _, t := range []string{c.DownBlockTypes[i], c.UpBlockTypes[i]} {
			if !strings.HasSuffix(t, "Block2D") || strings.TrimPrefix(strings.TrimPrefix(t, "CrossAttn"), "Down") != "Block2D" &&
				strings.TrimPrefix(strings.TrimPrefix(t, "CrossAttn"), "Up") != "Block2D" {
				return fmt.Errorf("block type %q is not supported", t)
			}
		}
	}
	return nil
}

func (c *Config) heads() intList {
	if len(c.NumAttentionHeads) > 0 {
		return c.NumAttentionHeads
	}
	return c.AttentionHeads
}

// PooledDim is the width of the pooled text embedding.
func (c *Config) PooledDim() int { return c.ProjectionDim - TimeIDs*c.AdditionTimeDim }

// depth is the number of transformer blocks per attention at a level; 0 where the block has no attention.
func (c *Config) depth(blockType string, level int) int {
	if !strings.HasPrefix(blockType, "CrossAttn") {
		return 0
	}
	return c.TransformerLayers.at(level)
}
