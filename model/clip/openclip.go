package clip

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"fewstep/internal/text"
	"fewstep/model/nn"
)

// openCLIPConfig is open_clip_config.json. Keys that change the network beyond these are refused as unknown.
type openCLIPConfig struct {
	Model struct {
		EmbedDim  int  `json:"embed_dim"`
		QuickGELU bool `json:"quick_gelu"`
		Vision    struct {
			ImageSize int     `json:"image_size"`
			Layers    int     `json:"layers"`
			Width     int     `json:"width"`
			HeadWidth int     `json:"head_width"`
			MLPRatio  float64 `json:"mlp_ratio"`
			PatchSize int     `json:"patch_size"`
		} `json:"vision_cfg"`
		Text struct {
			ContextLength int     `json:"context_length"`
			VocabSize     int     `json:"vocab_size"`
			Width         int     `json:"width"`
			Heads         int     `json:"heads"`
			Layers        int     `json:"layers"`
			MLPRatio      float64 `json:"mlp_ratio"`
		} `json:"text_cfg"`
	} `json:"model_cfg"`
	Preprocess struct {
		Mean          [3]float64 `json:"mean"`
		Std           [3]float64 `json:"std"`
		Interpolation string     `json:"interpolation"`
		ResizeMode    string     `json:"resize_mode"`
		Size          any        `json:"size"` // the vision tower's, repeated
		Mode          string     `json:"mode"`
		FillColor     any        `json:"fill_color"`
	} `json:"preprocess_cfg"`
}

// loadOpenCLIP fills the model's configs from open_clip_config.json; absent keys have open_clip's defaults.
func (m *Model) loadOpenCLIP(path string) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds neither a CLIPModel (config.json) nor an open_clip model (open_clip_config.json): %w", m.Dir, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	c := openCLIPConfig{}
	v, t := &c.Model.Vision, &c.Model.Text
	c.Model.EmbedDim = 512
	v.ImageSize, v.Layers, v.Width, v.HeadWidth, v.MLPRatio, v.PatchSize = 224, 12, 768, 64, 4, 16
	t.ContextLength, t.VocabSize, t.Width, t.Heads, t.Layers, t.MLPRatio = 77, 49408, 512, 8, 12, 4
	c.Preprocess.Mean, c.Preprocess.Std = openAIMean, openAIStd
	c.Preprocess.Interpolation, c.Preprocess.ResizeMode = "bicubic", "shortest"
	if err := text.StrictJSON(raw, &c); err != nil {
		return fmt.Errorf("%s: not an open_clip model of this kind: %w", path, err)
	}
	if v.HeadWidth <= 0 || v.Width%v.HeadWidth != 0 {
		return fmt.Errorf("%s: vision_cfg: width %d does not divide into heads of %d", path, v.Width, v.HeadWidth)
	}
	activation := "gelu"
	if c.Model.QuickGELU {
		activation = "quick_gelu"
	}
	tower := func(width, layers, heads int, ratio float64) Tower {
		return Tower{HiddenSize: width, IntermediateSize: int(float64(width) * ratio), Layers: layers, Heads: heads,
			Activation: activation, NormEps: 1e-5, ProjectionDim: c.Model.EmbedDim}
	}
	// The embedding is read where the id is largest: that is the end token.
	m.Text = &TextConfig{Tower: tower(t.Width, t.Layers, t.Heads, t.MLPRatio), VocabSize: t.VocabSize, MaxPositions: t.ContextLength,
		EOSTokenID: legacyEOS, Projected: true}
	m.Vision = &VisionConfig{Tower: tower(v.Width, v.Layers, v.Width/v.HeadWidth, v.MLPRatio), Channels: 3, ImageSize: v.ImageSize, PatchSize: v.PatchSize}
	m.Preprocess = Preprocess{Resize: v.ImageSize, Crop: v.ImageSize, Mean: c.Preprocess.Mean, Std: c.Preprocess.Std}
	switch c.Preprocess.ResizeMode {
	case "shortest":
	case "squash":
		m.Preprocess.Squash = true
	default:
		return fmt.Errorf("%s: preprocess_cfg: resize_mode %q is not supported, only shortest and squash", path, c.Preprocess.ResizeMode)
	}
	if c.Preprocess.Interpolation != "bicubic" {
		return fmt.Errorf("%s: preprocess_cfg: interpolation %q is not supported, only bicubic", path, c.Preprocess.Interpolation)
	}
	for _, err := range []error{m.Text.Validate(), m.Vision.Validate(), m.Preprocess.validate()} {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// openCLIPNames turns the ends of transformers' names within a layer into open_clip's.
var openCLIPNames = strings.NewReplacer(
	".layer_norm1.", ".ln_1.", ".layer_norm2.", ".ln_2.",
	".self_attn.out_proj.", ".attn.out_proj.",
	".mlp.fc1.", ".mlp.c_fc.", ".mlp.fc2.", ".mlp.c_proj.",
)

// OpenCLIPName is the name and shape under which open_clip keeps one of transformers' parameters, or three together.
func OpenCLIPName(s nn.Spec) (name string, dims []int) {
	from := openCLIPSource(s)
	return from.name, from.dims
}

// openCLIPSource says where open_clip keeps one of transformers' parameters.
func openCLIPSource(s nn.Spec) tensorSource {
	from := tensorSource{name: s.Name, dims: s.Dims}
	for _, tower := range []struct{ ours, theirs, final string }{{"text_model.", "", "ln_final."}, {"vision_model.", "visual.", "visual.ln_post."}} {
		name, ok := strings.CutPrefix(s.Name, tower.ours)
		if !ok {
			continue
		}
		for _, r := range [][2]string{
			{"encoder.layers.", tower.theirs + "transformer.resblocks."},
			{"embeddings.token_embedding.weight", "token_embedding.weight"},
			{"embeddings.position_embedding.weight", tower.theirs + "positional_embedding"},
			{"embeddings.class_embedding", "visual.class_embedding"},
			{"embeddings.patch_embedding.weight", "visual.conv1.weight"},
			{"pre_layrnorm.", "visual.ln_pre."},
			{"final_layer_norm.", tower.final},
			{"post_layernorm.", tower.final},
		} {
			if rest, ok := strings.CutPrefix(name, r[0]); ok {
				from.name = openCLIPNames.Replace(r[1] + rest)
			}
		}
		for part, projection := range []string{".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."} {
			if before, kind, ok := strings.Cut(from.name, projection); ok {
				from.name = before + ".attn.in_proj_" + kind
				from.fused, from.part = true, part
				from.dims = append([]int{3 * s.Dims[0]}, s.Dims[1:]...)
			}
		}
		return from
	}
	switch s.Name {
	case "text_projection.weight":
		from.name = "text_projection"
	case "visual_projection.weight":
		from.name = "visual.proj"
	default:
		return from
	}
	from.transposed, from.dims = true, []int{s.Dims[1], s.Dims[0]}
	return from
}
