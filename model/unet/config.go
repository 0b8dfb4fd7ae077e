// Package unet is diffusers' UNet2DConditionModel as blocks, as SDXL's family and Stable Diffusion 1 and 2 have it:
// cross-attention down, mid and up blocks, with SDXL's text-time conditioning or without. Everything is read from the
// model's config.json.
package unet

import (
	"encoding/json"
	"fewstep/internal/text"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Config holds the keys of a diffusers UNet config.json that decide its structure.
type Config struct {
	ClassName         string    `json:"_class_name"`
	SampleSize        int       `json:"sample_size"` // latent side the model was made for
	InChannels        int       `json:"in_channels"`
	OutChannels       int       `json:"out_channels"`
	BlockOutChannels  []int     `json:"block_out_channels"`
	DownBlockTypes    []string  `json:"down_block_types"`
	UpBlockTypes      []string  `json:"up_block_types"`
	LayersPerBlock    intList   `json:"layers_per_block"`   // resnets of a down block, for all levels or per level; up blocks have one more
	TransformerLayers intList   `json:"-"`                  // transformer blocks of an attention, for all levels or per level
	DownDepths        []intList `json:"-"`                  // the same for each attention of a down block; nil = TransformerLayers
	UpDepths          []intList `json:"-"`                  // the same for up blocks, coarsest first; nil = as their level's down block
	AttentionHeads    intList   `json:"attention_head_dim"` // diffusers' historic name: the number of heads, for all levels or per level
	CrossAttentionDim int       `json:"-"`                  // width of a text token
	LinearProjection  bool      `json:"use_linear_projection"`
	MidBlock          MidBlock  `json:"-"`                                     // between down and up blocks; empty = MidAttention
	UpcastAttention   bool      `json:"upcast_attention"`                      // products of queries and keys in f32, whatever the compute dtype
	AdditionTimeDim   int       `json:"addition_time_embed_dim"`               // 0 = no pooled text and no micro-conditions: Stable Diffusion 1 and 2
	ProjectionDim     int       `json:"projection_class_embeddings_input_dim"` // pooled text + 6 · addition_time_embed_dim
	NormGroups        int       `json:"norm_num_groups"`
	NormEps           float64   `json:"norm_eps"`
}

// MidBlock is the type of a UNet's mid block.
type MidBlock string

// Mid blocks: SDXL's, Segmind-Vega's, which is one resnet, and KOALA's, which has none.
const (
	MidAttention MidBlock = "UNetMidBlock2DCrossAttn"
	MidResnet    MidBlock = "UNetMidBlock2D"
	MidNone      MidBlock = "none" // null in a config.json
)

// mid is the mid block's type, never empty.
func (c *Config) mid() MidBlock {
	if c.MidBlock == "" {
		return MidAttention
	}
	return c.MidBlock
}

// TimeIDs is the number of micro-conditions: original height, width, crop top, left, target height, width.
const TimeIDs = 6

// intList is what diffusers writes either as one number or as a list of them.
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

// at is entry i, or the only one.
func (l intList) at(i int) int {
	if len(l) == 1 {
		return l[0]
	}
	return l[i]
}

// depthTable is a number for everything, a list by level, or a list of lists by level and attention.
type depthTable []intList

func (d *depthTable) UnmarshalJSON(b []byte) error {
	var one intList
	if json.Unmarshal(b, &one) == nil && len(one) == 1 && b[0] != '[' {
		*d = depthTable{one}
		return nil
	}
	return json.Unmarshal(b, (*[]intList)(d))
}

// LoadConfig reads and checks a diffusers UNet config.json.
func LoadConfig(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(raw, path)
}

// ParseConfig reads and checks the content of a config.json; path is for messages. Absent keys have diffusers'
// defaults.
func ParseConfig(raw []byte, path string) (*Config, error) {
	c := &Config{InChannels: 4, OutChannels: 4, NormGroups: 32, NormEps: 1e-5, LayersPerBlock: intList{2}, AttentionHeads: intList{8}}
	lists := struct {
		Down  depthTable `json:"transformer_layers_per_block"`
		Up    depthTable `json:"reverse_transformer_layers_per_block"`
		Width intList    `json:"cross_attention_dim"`
	}{Down: depthTable{{1}}, Width: intList{1280}}
	keys := map[string]json.RawMessage{}
	for _, into := range []any{&keys, c, &lists} {
		if err := text.JSON(raw, into); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	switch mid := keys["mid_block_type"]; string(mid) {
	case "null":
		c.MidBlock = MidNone
	case `"` + string(MidResnet) + `"`:
		c.MidBlock = MidResnet
	}
	err := checkFixed(c.ClassName, keys)
	if added := keys["addition_embed_type"]; added == nil || string(added) == "null" { // what describes it says nothing then
		c.AdditionTimeDim, c.ProjectionDim = 0, 0
	} else if err == nil && c.AdditionTimeDim == 0 && c.ProjectionDim == 0 {
		err = fmt.Errorf("addition_embed_type is text_time, and addition_time_embed_dim and projection_class_embeddings_input_dim are missing")
	}
	if err == nil {
		err = c.setLists(lists.Down, lists.Up, lists.Width)
	}
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *Config) setLists(down, up depthTable, width intList) error {
	for _, d := range width {
		if d != width[0] {
			return fmt.Errorf("cross_attention_dim is %v: levels that attend to texts of different widths are not supported", width)
		}
		c.CrossAttentionDim = d
	}
	c.UpDepths = up
	for _, d := range down {
		if len(d) == 1 {
			c.TransformerLayers = append(c.TransformerLayers, d[0])
			continue
		}
		if up == nil {
			return fmt.Errorf("transformer_layers_per_block has a list for each level, so reverse_transformer_layers_per_block must be given")
		}
		c.DownDepths, c.TransformerLayers = down, nil
		break
	}
	return nil
}

// Validate says in a sentence why a config is not one that this package can build.
func (c *Config) Validate() error {
	n := len(c.BlockOutChannels)
	switch {
	case n == 0 || c.InChannels <= 0 || c.OutChannels <= 0 || c.CrossAttentionDim <= 0:
		return fmt.Errorf("in_channels, out_channels, block_out_channels and cross_attention_dim must all be given and positive")
	case len(c.DownBlockTypes) != n || len(c.UpBlockTypes) != n:
		return fmt.Errorf("block_out_channels has %d levels, down_block_types %d and up_block_types %d: they must agree", n, len(c.DownBlockTypes), len(c.UpBlockTypes))
	case c.AdditionTimeDim == 0 && c.ProjectionDim == 0: // nothing is added
	case c.AdditionTimeDim <= 0 || c.AdditionTimeDim%2 != 0:
		return fmt.Errorf("addition_time_embed_dim is %d: it must be even and positive", c.AdditionTimeDim)
	case c.ProjectionDim <= TimeIDs*c.AdditionTimeDim:
		return fmt.Errorf("projection_class_embeddings_input_dim %d leaves no room for pooled text beside %d·%d time ids", c.ProjectionDim, TimeIDs, c.AdditionTimeDim)
	}
	switch {
	case !(c.NormEps > 0):
		return fmt.Errorf("norm_eps is %g: it must be positive", c.NormEps)
	case c.BlockOutChannels[0]%2 != 0:
		return fmt.Errorf("block_out_channels[0]=%d is odd: half of the time embedding is sines, half cosines", c.BlockOutChannels[0])
	}
	if err := c.validateLists(n); err != nil {
		return err
	}
	for i, ch := range c.BlockOutChannels {
		if c.NormGroups <= 0 || ch <= 0 || ch%c.NormGroups != 0 {
			return fmt.Errorf("block_out_channels[%d]=%d does not divide into norm_num_groups=%d", i, ch, c.NormGroups)
		}
		if h := c.AttentionHeads.at(i); ch%h != 0 {
			return fmt.Errorf("block_out_channels[%d]=%d does not divide into %d attention heads", i, ch, h)
		}
		if t := c.DownBlockTypes[i]; t != "DownBlock2D" && t != "CrossAttnDownBlock2D" {
			return fmt.Errorf("down_block_types[%d] is %q; only DownBlock2D and CrossAttnDownBlock2D are supported", i, t)
		}
		if t := c.UpBlockTypes[i]; t != "UpBlock2D" && t != "CrossAttnUpBlock2D" {
			return fmt.Errorf("up_block_types[%d] is %q; only UpBlock2D and CrossAttnUpBlock2D are supported", i, t)
		}
	}
	return nil
}

// validateLists checks what there is for each of n levels.
func (c *Config) validateLists(n int) error {
	type list struct {
		key     string
		entries intList
		want    int
	}
	all := []list{{"layers_per_block", c.LayersPerBlock, n}, {"attention_head_dim", c.AttentionHeads, n}}
	if c.DownDepths == nil {
		all = append(all, list{"transformer_layers_per_block", c.TransformerLayers, n})
	}
	check := func(l list) error {
		if len(l.entries) != 1 && len(l.entries) != l.want {
			return fmt.Errorf("%s has %d entries, want 1 or %d", l.key, len(l.entries), l.want)
		}
		for _, v := range l.entries {
			if v <= 0 {
				return fmt.Errorf("%s has the entry %d: all must be positive", l.key, v)
			}
		}
		return nil
	}
	for _, l := range all {
		if err := check(l); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		key   string
		table []intList
		count func(i int) int // attentions of block i
	}{
		{"transformer_layers_per_block", c.DownDepths, c.LayersPerBlock.at},
		{"reverse_transformer_layers_per_block", c.UpDepths, func(i int) int { return c.LayersPerBlock.at(n-1-i) + 1 }},
	} {
		if t.table != nil && len(t.table) != n {
			return fmt.Errorf("%s has %d entries, want %d", t.key, len(t.table), n)
		}
		for i, depths := range t.table {
			if err := check(list{fmt.Sprintf("%s[%d]", t.key, i), depths, t.count(i)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Architecture is modelspec's name for a UNet of a published model's own size, "" for another.
func (c *Config) Architecture() string {
	depths := slices.Compact(slices.Clone(c.TransformerLayers)) // one number stands for all levels
	switch fmt.Sprint(c.BlockOutChannels, depths, c.CrossAttentionDim, c.Added()) {
	case "[320 640 1280] [1 2 10] 2048 true":
		return "stable-diffusion-xl-v1-base"
	case "[320 640 1280 1280] [1] 768 false":
		return "stable-diffusion-v1"
	case "[320 640 1280 1280] [1] 1024 false":
		if c.SampleSize == 64 {
			return "stable-diffusion-v2-512"
		}
		return "stable-diffusion-v2-768-v"
	}
	return ""
}

// Family is modelspec's name for a UNet of another size, which no program mistakes for a published model's.
func (c *Config) Family() string {
	if c.Added() {
		return "stable-diffusion-xl-family"
	}
	return "stable-diffusion-family"
}

// Added says whether the network is told pooled text and micro-conditions.
func (c *Config) Added() bool { return c.AdditionTimeDim > 0 }

// PooledDim is the width of the pooled text embedding, of a network that is told one.
func (c *Config) PooledDim() int { return c.ProjectionDim - TimeIDs*c.AdditionTimeDim }

// downDepths are the numbers of transformer blocks in the attentions of a down block; nil where it has none.
func (c *Config) downDepths(level int) intList {
	if !strings.HasPrefix(c.DownBlockTypes[level], "CrossAttn") {
		return nil
	}
	return c.levelDepths(level)
}

// levelDepths are downDepths where the level has attention: the mid block always does, by the last level's.
func (c *Config) levelDepths(level int) intList {
	if c.DownDepths != nil {
		return c.DownDepths[level]
	}
	return intList{c.TransformerLayers.at(level)}
}

// upDepths are those of up block i, which counts from the coarsest level.
func (c *Config) upDepths(i int) intList {
	switch {
	case !strings.HasPrefix(c.UpBlockTypes[i], "CrossAttn"):
		return nil
	case c.UpDepths != nil:
		return c.UpDepths[i]
	}
	return c.levelDepths(len(c.BlockOutChannels) - 1 - i)
}
