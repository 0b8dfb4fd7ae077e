package unet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// fixed lists the keys of diffusers' UNet config that have one meaning here: a config that gives another value is
// refused by the key's name.
var fixed = map[string][]any{
	"act_fn":                         {"silu", "swish"},
	"addition_embed_type":            {"text_time", nil},
	"attention_type":                 {"default"},
	"center_input_sample":            {false},
	"class_embed_type":               {nil},
	"class_embeddings_concat":        {false},
	"conv_in_kernel":                 {3.0},
	"conv_out_kernel":                {3.0},
	"cross_attention_norm":           {nil},
	"downsample_padding":             {1.0},
	"dual_cross_attention":           {false},
	"encoder_hid_dim":                {nil},
	"encoder_hid_dim_type":           {nil},
	"flip_sin_to_cos":                {true},
	"freq_shift":                     {0.0},
	"mid_block_only_cross_attention": {nil, false},
	"mid_block_scale_factor":         {1.0},
	"mid_block_type":                 {string(MidAttention), string(MidResnet), nil},
	"num_attention_heads":            {nil}, // diffusers refuses it too: attention_head_dim holds the number of heads
	"num_class_embeds":               {nil},
	"only_cross_attention":           {false},
	"resnet_out_scale_factor":        {1.0},
	"resnet_skip_time_act":           {false},
	"resnet_time_scale_shift":        {"default"},
	"time_cond_proj_dim":             {nil},
	"time_embedding_act_fn":          {nil},
	"time_embedding_dim":             {nil},
	"time_embedding_type":            {"positional"},
	"timestep_post_act":              {nil},
}

// meaningful are keys for which null is no default but another network.
var meaningful = []string{"mid_block_type"}

// checkFixed refuses what a config says and this package cannot build, naming every key.
func checkFixed(class string, keys map[string]json.RawMessage) error {
	if class != "" && class != "UNet2DConditionModel" {
		return fmt.Errorf("this is the config of a %s, not of a UNet2DConditionModel", class)
	}
	if string(keys["norm_num_groups"]) == "null" {
		return fmt.Errorf("norm_num_groups is null: networks without group norms are not supported")
	}
	var wrong []string
	for key, values := range fixed {
		raw, given := keys[key]
		if !given || string(raw) == "null" && !slices.Contains(meaningful, key) {
			continue
		}
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if slices.ContainsFunc(values, func(w any) bool { return equals(v, w) }) {
			continue
		}
		var want []string
		for _, w := range values {
			text, _ := json.Marshal(w)
			want = append(want, string(text))
		}
		wrong = append(wrong, fmt.Sprintf("%s %s, only %s", key, raw, strings.Join(want, " or ")))
	}
	if wrong == nil {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("not supported: %s", strings.Join(wrong, "; "))
}

// equals says whether a value, or every entry of a list by level, is w.
func equals(v, w any) bool {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			if !equals(x, w) {
				return false
			}
		}
		return len(v) > 0
	case map[string]any:
		return false
	}
	return v == w
}
