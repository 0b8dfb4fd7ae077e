package tinypipeline

type object = map[string]any

// width is that of the second text encoder's hidden states and of the pooled projection. The first encoder's is another:
// diffusers tells the two apart by it in a single file.
const (
	width      = 8
	firstWidth = 4
)

// features is the width of the metrics' image encoder: they find 32 principal axes in it, and its norms take one away.
const features = 40

// sdxl are the files of a model of SDXL's structure, by path.
var sdxl = map[string]object{
	"model_index.json": {
		"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": true,
		"scheduler": []string{"diffusers", "EulerDiscreteScheduler"}, "unet": []string{"diffusers", "UNet2DConditionModel"},
		"vae": []string{"diffusers", "AutoencoderKL"}, "text_encoder": []string{"transformers", "CLIPTextModel"},
		"text_encoder_2": []string{"transformers", "CLIPTextModelWithProjection"}, "tokenizer": []string{"transformers", "CLIPTokenizer"},
		"tokenizer_2": []string{"transformers", "CLIPTokenizer"},
	},
	"scheduler/scheduler_config.json": {
		"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
		"num_train_timesteps": 1000, "prediction_type": "epsilon", "timestep_spacing": "trailing",
	},
	"unet/config.json": {
		"_class_name": "UNet2DConditionModel", "sample_size": Resolution / 2, "in_channels": 4, "out_channels": 4, "act_fn": "silu",
		"block_out_channels": []int{8, 16}, "down_block_types": []string{"DownBlock2D", "CrossAttnDownBlock2D"},
		"mid_block_type": "UNetMidBlock2DCrossAttn", "up_block_types": []string{"CrossAttnUpBlock2D", "UpBlock2D"},
		"layers_per_block": 1, "transformer_layers_per_block": []int{1, 1}, "attention_head_dim": []int{1, 2},
		"cross_attention_dim": firstWidth + width, "use_linear_projection": true, "norm_num_groups": 4, "norm_eps": 1e-5,
		"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": width + 6*8,
		"flip_sin_to_cos": true, "freq_shift": 0, "downsample_padding": 1,
	},
	"vae/config.json":            vae(1),
	"text_encoder/config.json":   text("CLIPTextModel", "quick_gelu", 2047, firstWidth, firstWidth),
	"text_encoder_2/config.json": text("CLIPTextModelWithProjection", "gelu", 0, width, width),
	"clip/config.json":           metric,
}

// sd are the files of a model of the structure of Stable Diffusion 1 or 2.
func sd(version int) map[string]object {
	scheduler := object{
		"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false,
		"num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": nil,
	}
	unet := object{
		"_class_name": "UNet2DConditionModel", "sample_size": Resolution / 2, "in_channels": 4, "out_channels": 4, "act_fn": "silu",
		"block_out_channels": []int{8, 16}, "down_block_types": []string{"CrossAttnDownBlock2D", "DownBlock2D"},
		"up_block_types": []string{"UpBlock2D", "CrossAttnUpBlock2D"}, "layers_per_block": 1, "attention_head_dim": 2,
		"cross_attention_dim": width, "norm_num_groups": 4, "norm_eps": 1e-5, "center_input_sample": false, "flip_sin_to_cos": true,
		"freq_shift": 0, "downsample_padding": 1, "mid_block_scale_factor": 1,
	}
	encoder := text("CLIPTextModel", "quick_gelu", 1, width, width)
	if version == 2 {
		scheduler["_class_name"], scheduler["prediction_type"] = "DDIMScheduler", "v_prediction"
		delete(scheduler, "skip_prk_steps")
		unet["attention_head_dim"], unet["use_linear_projection"], unet["upcast_attention"] = []int{2, 4}, true, true
		unet["dual_cross_attention"], unet["only_cross_attention"], unet["num_class_embeds"] = false, false, nil
		encoder = text("CLIPTextModel", "gelu", 1, width, width/2)
	}
	return map[string]object{
		"model_index.json": {
			"_class_name": "StableDiffusionPipeline", "feature_extractor": []any{nil, nil}, "requires_safety_checker": false,
			"safety_checker": []any{nil, nil}, "scheduler": []any{"diffusers", scheduler["_class_name"]}, "unet": []string{"diffusers", "UNet2DConditionModel"},
			"vae": []string{"diffusers", "AutoencoderKL"}, "text_encoder": []string{"transformers", "CLIPTextModel"},
			"tokenizer": []string{"transformers", "CLIPTokenizer"},
		},
		"scheduler/scheduler_config.json": scheduler, "unet/config.json": unet, "vae/config.json": vae(0.18215),
		"text_encoder/config.json": encoder, "clip/config.json": metric,
	}
}

func vae(scale float64) object {
	return object{
		"_class_name": "AutoencoderKL", "sample_size": Resolution, "in_channels": 3, "out_channels": 3, "latent_channels": 4,
		"block_out_channels": []int{8, 8}, "down_block_types": []string{"DownEncoderBlock2D", "DownEncoderBlock2D"},
		"up_block_types": []string{"UpDecoderBlock2D", "UpDecoderBlock2D"}, "layers_per_block": 1, "norm_num_groups": 4,
		"act_fn": "silu", "scaling_factor": scale,
	}
}

// metric is the CLIPModel of the metrics.
var metric = object{
	"architectures": []string{"CLIPModel"}, "model_type": "clip", "projection_dim": features,
	"text_config": text("", "gelu", 0, width, features),
	"vision_config": object{
		"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": features, "intermediate_size": features,
		"num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3, "image_size": Resolution, "patch_size": Resolution / 2,
		"projection_dim": features,
	},
}

// text is a text encoder's config; the vocabulary is that of the tokenizers in model/clip/testdata.
func text(class, act string, pad, hidden, projection int) object {
	c := object{
		"model_type": "clip_text_model", "hidden_act": act, "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2,
		"num_attention_heads": 2, "max_position_embeddings": 32, "vocab_size": 2048, "bos_token_id": 2046, "eos_token_id": 2047,
		"pad_token_id": pad, "projection_dim": projection,
	}
	if class != "" {
		c["architectures"] = []string{class}
	}
	return c
}

// Recipe walks every stage and phase of the paper's ladder, from 16 steps to 1, in two or three updates each. Its paths
// are found in the folder that Write gave it.
const Recipe = `name: tiny
seed: 11
model: tinymodel
data:
  source: images.parquet
  resolution: 16
  captions: {fine: 0.5, kind: 0.25, coarse: 0.25}
  max_bad: 0
train:
  batch: 2
  accumulate: 1
  compute: f32
  granularity: network
  checkpoint_minutes: 0
  checkpoint_samples: 2
lora: {rank: 2, alpha: 2}
discriminator: {head_groups: 4, gate_window: 4, collapse_window: 4}
eval: {samples: 8, batch: 4, guidance: 2, teacher_steps: 2, steps: [2, 1], sheet_samples: 2, bootstrap: 20}
stages:
  - name: "16"
    like: "32"
    teacher_steps: 32
    student_steps: 16
    guidance: 2
    phases:
      mse-lora: {samples: 4, lr: 1e-3}
      mse-full: {samples: 4, lr: 1e-3, decay: linear}
  - name: "8"
    teacher_steps: 16
    phases:
      lora-cond: {samples: 6, lr: 1e-3, discriminator_lr: 1e-3, warmup_discriminator: 2}
      lora-uncond: {samples: 4, lr: 1e-3}
      full-uncond: {samples: 4, lr: 1e-3}
  - name: "4"
    phases:
      lora-cond: {samples: 4, lr: 1e-3}
      lora-uncond: {samples: 4, lr: 1e-3, gate: 0.2}
      full-uncond: {samples: 4, lr: 1e-3}
  - name: "2"
    phases:
      lora-cond: {samples: 4, lr: 1e-3, warmup_discriminator: 8, warmup_accuracy: 0.01, count_student: true}
      lora-uncond: {samples: 4, lr: 1e-3}
      full-uncond: {samples: 4, lr: 1e-3}
  - name: "1"
    phases:
      x0: {samples: 4, lr: 1e-3}
      full-cond: {samples: 4, lr: 1e-3}
      full-uncond: {samples: 4, lr: 1e-3}
`
