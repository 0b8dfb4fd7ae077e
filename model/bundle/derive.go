package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"fewstep/model/family"
	"fewstep/model/ldm"
	"fewstep/model/prediction"
	"fewstep/model/unet"
	"fewstep/model/weights"
)

// What models of all kinds have and shapes do not tell.
const (
	headWidth     = 64
	timeIDs       = 6
	timeWidth     = 256
	groups        = 32
	textHeadWidth = 64
)

// untold is what a family has, and shapes do not tell.
type untold struct {
	latentSide, imageSide int
	vaeScale              float64
	heads                 int    // of every attention; 0 = as many as are 64 wide
	upcast                bool   // products of queries and keys in f32
	activation            string // of its first text encoder
	spacing               string // of timesteps
}

// untoldOf is what a family has.
func untoldOf(f ldm.Family) untold {
	switch f {
	case ldm.SD1, ldm.SDInpainting:
		return untold{64, 512, 0.18215, 8, false, "quick_gelu", "leading"}
	case ldm.SD2:
		return untold{96, 768, 0.18215, 0, true, "gelu", "leading"}
	}
	return untold{128, 1024, 0.13025, 0, false, "quick_gelu", "leading"}
}

// ErrUnknownHeads is wrapped by the error of Open for a file of other widths than its kind's that does not carry its configs.
var ErrUnknownHeads = errors.New("shapes do not tell the attention heads, and the file's metadata holds no config.json that would: 'fewstep sample' and 'fewstep convert' take one from a folder, by --config")

type object = map[string]any

// derive adds the configurations that the file's metadata does not hold, read from the tensors' shapes.
func (b *Bundle) derive() error {
	spec, _ := weights.ParseModelSpec(b.metadata)
	has := untoldOf(b.checkpoint.Family())
	build := map[string]func(*shapes) object{
		ldm.UNet: func(s *shapes) object { return unetConfig(s, b.pooled(), has) },
		ldm.VAE:  func(s *shapes) object { return vaeConfig(s, has) },
		ldm.Text: func(s *shapes) object { return textConfig(s, has.activation) }, ldm.Text2: func(s *shapes) object { return textConfig(s, "gelu") },
	}
	for _, component := range b.Components() {
		name := component + "/config.json"
		if b.files[name] != nil || !b.Has(component) {
			continue
		}
		src, err := b.Weights(component)
		if err != nil {
			return err
		}
		s := &shapes{src: src}
		config := build[component](s)
		if s.err != nil {
			return fmt.Errorf("%s: %s: %w", b.Path, component, s.err)
		}
		b.files[name] = indented(config)
		delete(b.read, component)
	}
	if b.files[schedulerFile] == nil {
		config, err := b.schedulerConfig(spec)
		if err != nil {
			return err
		}
		b.files[schedulerFile] = config
	}
	if b.files["model_index.json"] == nil {
		b.files["model_index.json"] = indented(modelIndex(b.Kind()))
	}
	return nil
}

// pooled is the width of the second text encoder's projection, 0 where the file has none.
func (b *Bundle) pooled() int {
	if !b.Has(ldm.Text2) {
		return 0
	}
	src, err := b.Weights(ldm.Text2)
	if err != nil {
		return 0
	}
	s := shapes{src: src}
	return s.dim("text_projection.weight", 0)
}

// shapes reads dimensions of tensors; the first that is missing is err.
type shapes struct {
	src weights.Source
	err error
}

func (s *shapes) dim(name string, axis int) int {
	t, err := s.src.Tensor(name)
	if err == nil && axis >= len(t.Shape) {
		err = fmt.Errorf("tensor %s has the shape %v, which has no dimension %d", name, t.Shape, axis)
	}
	if err != nil {
		if s.err == nil {
			s.err = err
		}
		return 0
	}
	return t.Shape[axis]
}

func (s *shapes) has(name string) bool {
	_, err := s.src.Tensor(name)
	return err == nil
}

// count is the number of consecutive numbers, from 0 on, that make a tensor's name of the pattern.
func (s *shapes) count(pattern string, args ...any) int {
	n := 0
	for s.has(fmt.Sprintf(pattern, append(args, n)...)) {
		n++
	}
	return n
}

func unetConfig(s *shapes, pooled int, has untold) object {
	levels := s.count("down_blocks.%d.resnets.0.conv1.weight")
	var widths, heads, layers []int
	var down, up []string
	var downDepths, upDepths [][]int
	text := 0
	for i := range levels {
		width := s.dim(fmt.Sprintf("down_blocks.%d.resnets.0.conv1.weight", i), 0)
		number := has.heads
		if number == 0 {
			number = width / headWidth
		}
		if known := has.heads == 0 && width%headWidth == 0 || has.heads > 0 && width%320 == 0; !known && s.err == nil {
			s.err = fmt.Errorf("level %d is %d wide, which does not divide into its family's attention heads: %w", i, width, ErrUnknownHeads)
		}
		widths, heads = append(widths, width), append(heads, number)
		layers = append(layers, s.count("down_blocks.%d.resnets.%d.conv1.weight", i))
		depths := s.depths("down_blocks", i)
		downDepths, down = append(downDepths, depths), append(down, blockType("Down", depths))
		if depths != nil {
			text = s.dim(fmt.Sprintf("down_blocks.%d.attentions.0.transformer_blocks.0.attn2.to_k.weight", i), 1)
		}
		depths = s.depths("up_blocks", i)
		upDepths, up = append(upDepths, depths), append(up, blockType("Up", depths))
	}
	mid := any(unet.MidAttention)
	switch {
	case s.has("mid_block.attentions.0.proj_in.weight"):
	case s.has("mid_block.resnets.0.conv1.weight"):
		mid = unet.MidResnet
	default:
		mid = nil
	}
	linear := false
	for _, name := range s.src.Names() {
		if strings.HasSuffix(name, ".proj_in.weight") {
			t, err := s.src.Tensor(name)
			linear = err == nil && len(t.Shape) == 2
			break
		}
	}
	config := object{
		"_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": heads, "block_out_channels": widths,
		"center_input_sample": false, "cross_attention_dim": text, "down_block_types": down, "downsample_padding": 1,
		"flip_sin_to_cos": true, "freq_shift": 0, "in_channels": s.dim("conv_in.weight", 1),
		"layers_per_block": oneOrAll(layers), "mid_block_type": mid,
		"norm_eps": 1e-5, "norm_num_groups": groups, "out_channels": s.dim("conv_out.weight", 0),
		"sample_size": has.latentSide, "transformer_layers_per_block": depthList(downDepths), "up_block_types": up, "use_linear_projection": linear,
	}
	if has.heads > 0 {
		config["attention_head_dim"] = has.heads
	}
	if has.upcast {
		config["upcast_attention"] = true
	}
	if s.has("add_embedding.linear_1.weight") || s.has("add_embedding.linear_1.bias") || pooled > 0 {
		added := s.dim("add_embedding.linear_1.weight", 1)
		time := timeWidth
		if pooled > 0 && added > pooled && (added-pooled)%timeIDs == 0 {
			time = (added - pooled) / timeIDs
		}
		config["addition_embed_type"], config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"] = "text_time", time, added
	}
	if !mirrored(downDepths, upDepths) {
		config["reverse_transformer_layers_per_block"] = depthList(upDepths)
	}
	return config
}

func blockType(side string, depths []int) string {
	if depths == nil {
		return side + "Block2D"
	}
	return "CrossAttn" + side + "Block2D"
}

// depths are the numbers of transformer blocks of a block's attentions, nil where it has none.
func (s *shapes) depths(blocks string, block int) (depths []int) {
	for j := range s.count(blocks+".%d.attentions.%d.norm.weight", block) {
		depths = append(depths, s.count(blocks+".%d.attentions.%d.transformer_blocks.%d.attn2.to_k.weight", block, j))
	}
	return depths
}

// oneOrAll is the number that all are, or else the list of them.
func oneOrAll(list []int) any {
	for _, n := range list {
		if n != list[0] {
			return list
		}
	}
	if len(list) == 0 {
		return 0
	}
	return list[0]
}

// depthList is transformer_layers_per_block: a number by level, and a list where a level's attentions differ. A level
// without attention has 1, as in SDXL's own file.
func depthList(depths [][]int) []any {
	list := make([]any, len(depths))
	for i, d := range depths {
		list[i] = 1
		if len(d) > 0 {
			list[i] = oneOrAll(d)
		}
	}
	return list
}

// mirrored says whether each up block's attentions are as deep as its level's in the down blocks, which configs need
// not say.
func mirrored(down, up [][]int) bool {
	for i, d := range up {
		for _, n := range d {
			level := down[len(down)-1-i]
			if len(level) == 0 || oneOrAll(level) != n {
				return false
			}
		}
	}
	return true
}

func vaeConfig(s *shapes, has untold) object {
	levels := s.count("encoder.down_blocks.%d.resnets.0.conv1.weight")
	var widths []int
	var down, up []string
	for i := range levels {
		widths = append(widths, s.dim(fmt.Sprintf("encoder.down_blocks.%d.resnets.0.conv1.weight", i), 0))
		down, up = append(down, "DownEncoderBlock2D"), append(up, "UpDecoderBlock2D")
	}
	return object{
		"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": widths, "down_block_types": down,
		"force_upcast": true, "in_channels": s.dim("encoder.conv_in.weight", 1), "latent_channels": s.dim("decoder.conv_in.weight", 1),
		"layers_per_block": s.count("encoder.down_blocks.0.resnets.%d.conv1.weight"), "norm_num_groups": groups,
		"mid_block_add_attention": s.has("encoder.mid_block.attentions.0.to_q.weight"),
		"out_channels":            s.dim("decoder.conv_out.weight", 0), "sample_size": has.imageSide, "scaling_factor": has.vaeScale,
		"up_block_types": up, "use_post_quant_conv": s.has("post_quant_conv.weight"), "use_quant_conv": s.has("quant_conv.weight"),
	}
}

func textConfig(s *shapes, activation string) object {
	const model = "text_model."
	words, width := s.dim(model+"embeddings.token_embedding.weight", 0), s.dim(model+"embeddings.token_embedding.weight", 1)
	class, projected := "CLIPTextModel", width
	if s.has("text_projection.weight") {
		class, projected = "CLIPTextModelWithProjection", s.dim("text_projection.weight", 0)
	}
	if width%textHeadWidth != 0 && s.err == nil {
		s.err = fmt.Errorf("it is %d wide, which does not divide into CLIP's attention heads of %d: %w", width, textHeadWidth, ErrUnknownHeads)
	}
	return object{
		"architectures": []string{class}, "attention_dropout": 0.0, "bos_token_id": words - 2, "dropout": 0.0,
		"eos_token_id": words - 1, "hidden_act": activation, "hidden_size": width, "initializer_factor": 1.0,
		"initializer_range": 0.02, "intermediate_size": s.dim(model+"encoder.layers.0.mlp.fc1.weight", 0),
		"layer_norm_eps": 1e-5, "max_position_embeddings": s.dim(model+"embeddings.position_embedding.weight", 0),
		"model_type": "clip_text_model", "num_attention_heads": width / textHeadWidth,
		"num_hidden_layers": s.count(model + "encoder.layers.%d.layer_norm1.weight"), "pad_token_id": 1,
		"projection_dim": projected, "vocab_size": words,
	}
}

// schedulerConfig is the family's, with what the file says about its prediction.
func (b *Bundle) schedulerConfig(spec weights.ModelSpec) ([]byte, error) {
	spacing := untoldOf(b.checkpoint.Family()).spacing
	if spec.Spacing != "" {
		spacing = spec.Spacing
	}
	kind, _, err := b.Prediction()
	if err != nil {
		return nil, err
	}
	return kind.Schedule(indented(object{
		"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
		"interpolation_type": "linear", "num_train_timesteps": 1000, "prediction_type": prediction.Epsilon,
		"rescale_betas_zero_snr": false, "steps_offset": 1, "timestep_spacing": spacing, "use_karras_sigmas": false,
	}))
}

func modelIndex(k *family.Kind) object {
	index := object{
		"_class_name": k.Class, "scheduler": []string{"diffusers", "EulerDiscreteScheduler"},
		"unet": []string{"diffusers", "UNet2DConditionModel"}, "vae": []string{"diffusers", "AutoencoderKL"},
	}
	classes := []string{"CLIPTextModel", "CLIPTextModelWithProjection"}
	for i, folder := range k.Text {
		index[folder] = []string{"transformers", classes[i]}
		index[tokenizerOf[folder]] = []string{"transformers", "CLIPTokenizer"}
	}
	if k.ZeroEmpty {
		index["force_zeros_for_empty_prompt"] = true
	} else { // the safety checker, which fewstep does not have and diffusers asks about
		index["feature_extractor"], index["safety_checker"], index["requires_safety_checker"] = []any{nil, nil}, []any{nil, nil}, false
	}
	return index
}

func indented(v any) []byte {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic(err) // strings, numbers and lists always encode
	}
	return []byte(b.String())
}
