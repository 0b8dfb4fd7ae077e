package unet

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// sdxl is the config as diffusers writes it, with some keys changed.
func sdxl(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	raw, err := os.ReadFile("../golden/testdata/sdxl/unet/config.json")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]any{}
	if err := json.Unmarshal(raw, &keys); err != nil {
		t.Fatal(err)
	}
	for k, v := range changes {
		if keys[k] = v; v == "absent" {
			delete(keys, k)
		}
	}
	if raw, err = json.Marshal(keys); err != nil {
		t.Fatal(err)
	}
	return raw
}

type object = map[string]any

func TestLists(t *testing.T) {
	type lists struct {
		layers, heads intList
		width         int
		down, up      []intList
		mid           int
	}
	for name, c := range map[string]struct {
		changes object
		want    lists
	}{
		"SDXL": {nil, lists{intList{2}, intList{5, 10, 20}, 2048, []intList{nil, {2}, {10}}, []intList{{10}, {2}, nil}, 10}},
		"one for all": {object{"attention_head_dim": 4, "transformer_layers_per_block": 3, "layers_per_block": 1, "cross_attention_dim": 7},
			lists{intList{1}, intList{4}, 7, []intList{nil, {3}, {3}}, []intList{{3}, {3}, nil}, 3}},
		"by level": {object{"layers_per_block": []int{1, 2, 3}, "cross_attention_dim": []int{9, 9, 9}},
			lists{intList{1, 2, 3}, intList{5, 10, 20}, 9, []intList{nil, {2}, {10}}, []intList{{10}, {2}, nil}, 10}},
		"by attention": {object{"transformer_layers_per_block": []any{1, []int{1, 2}, []int{4, 3}}, "reverse_transformer_layers_per_block": []any{5, []int{1, 2, 3}, 1}},
			lists{intList{2}, intList{5, 10, 20}, 2048, []intList{nil, {1, 2}, {4, 3}}, []intList{{5}, {1, 2, 3}, nil}, 4}},
		"up blocks apart": {object{"reverse_transformer_layers_per_block": []int{9, 1, 1}},
			lists{intList{2}, intList{5, 10, 20}, 2048, []intList{nil, {2}, {10}}, []intList{{9}, {1}, nil}, 10}},
		"defaults": {object{"attention_head_dim": "absent", "transformer_layers_per_block": "absent", "layers_per_block": "absent", "cross_attention_dim": "absent"},
			lists{intList{2}, intList{8}, 1280, []intList{nil, {1}, {1}}, []intList{{1}, {1}, nil}, 1}},
	} {
		config, err := ParseConfig(sdxl(t, c.changes), "config.json")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := lists{layers: config.LayersPerBlock, heads: config.AttentionHeads, width: config.CrossAttentionDim, mid: config.levelDepths(2)[0]}
		for i := range 3 {
			got.down, got.up = append(got.down, config.downDepths(i)), append(got.up, config.upDepths(i))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestRefusedConfigs(t *testing.T) {
	for _, c := range []struct {
		changes object
		says    string
	}{
		{object{"_class_name": "UNet2DModel"}, "UNet2DModel"},
		{object{"addition_embed_type": "text_image"}, `addition_embed_type "text_image", only "text_time" or null`},
		{object{"act_fn": "gelu"}, `act_fn "gelu", only "silu" or "swish"`},
		{object{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type"},
		{object{"norm_num_groups": nil}, "norm_num_groups is null"},
		{object{"norm_eps": 0}, "norm_eps is 0"},
		{object{"num_attention_heads": 8}, "num_attention_heads 8, only null"},
		{object{"only_cross_attention": []bool{false, true, false}}, "only_cross_attention"},
		{object{"class_embed_type": "timestep", "encoder_hid_dim": 4096}, `class_embed_type "timestep", only null; encoder_hid_dim 4096, only null`},
		{object{"conv_in_kernel": 5}, "conv_in_kernel 5, only 3"},
		{object{"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"},
		{object{"time_cond_proj_dim": 256}, "time_cond_proj_dim"},
		{object{"dual_cross_attention": true}, "dual_cross_attention true, only false"},
		{object{"center_input_sample": true}, "center_input_sample"},
		{object{"flip_sin_to_cos": false}, "flip_sin_to_cos"},
		{object{"freq_shift": 1}, "freq_shift 1, only 0"},
		{object{"cross_attention_dim": []int{768, 2048, 2048}}, "cross_attention_dim is [768 2048 2048]"},
		{object{"cross_attention_dim": "wide"}, "want a number or a list of numbers"},
		{object{"transformer_layers_per_block": []any{1, []int{1, 2}, 1}}, "reverse_transformer_layers_per_block must be given"},
		{object{"transformer_layers_per_block": []any{1, []int{1, 2, 3}, 1}, "reverse_transformer_layers_per_block": 1}, "transformer_layers_per_block[1] has 3 entries, want 1 or 2"},
		{object{"transformer_layers_per_block": []int{1, 2}}, "transformer_layers_per_block has 2 entries, want 1 or 3"},
		{object{"transformer_layers_per_block": []int{1, 0, 2}}, "transformer_layers_per_block has the entry 0"},
		{object{"transformer_layers_per_block": []any{}}, "transformer_layers_per_block has 0 entries"},
		{object{"reverse_transformer_layers_per_block": []any{1, 1, []int{1, 2}}}, "reverse_transformer_layers_per_block[2] has 2 entries, want 1 or 3"},
		{object{"layers_per_block": []int{2, 2}}, "layers_per_block has 2 entries"},
		{object{"layers_per_block": -1}, "layers_per_block has the entry -1"},
		{object{"attention_head_dim": []int{5, 10, 0}}, "attention_head_dim has the entry 0"},
		{object{"attention_head_dim": 7}, "block_out_channels[0]=320 does not divide into 7 attention heads"},
		{object{"norm_num_groups": 48}, "block_out_channels[0]=320"},
		{object{"addition_time_embed_dim": 5}, "addition_time_embed_dim is 5"},
		{object{"projection_class_embeddings_input_dim": 1536}, "leaves no room"},
		{object{"down_block_types": []string{"DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"}}, `down_block_types[1] is "AttnDownBlock2D"`},
		{object{"up_block_types": []string{"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "DownBlock2D"}}, `up_block_types[2] is "DownBlock2D"`},
		{object{"sample_size": []int{128, 96}}, "sample_size"},
	} {
		_, err := ParseConfig(sdxl(t, c.changes), "config.json")
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "config.json: ") {
			t.Errorf("%v: error %v, want one about %q", c.changes, err, c.says)
		}
	}
}

// Every key that has one meaning is refused by name when it says anything else.
func TestFixedKeys(t *testing.T) {
	for key := range fixed {
		_, err := ParseConfig(sdxl(t, object{key: "something else"}), "config.json")
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error %v", key, err)
		}
		if !slices.Contains(meaningful, key) {
			if _, err := ParseConfig(sdxl(t, object{key: nil}), "config.json"); err != nil {
				t.Errorf("%s null: %v", key, err)
			}
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(string(sdxl(f, nil)))
	f.Add(string(sdxl(f, object{"transformer_layers_per_block": []any{1, []int{1, 2}, []int{4, 3}}, "reverse_transformer_layers_per_block": []any{5, []int{1, 2, 3}, 1}})))
	f.Add(`{"addition_embed_type":"text_time","transformer_layers_per_block":[[]],"cross_attention_dim":[]}`)
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := ParseConfig([]byte(raw), "config.json")
		if err != nil {
			return
		}
		for i := range c.BlockOutChannels {
			_ = fmt.Sprint(c.downDepths(i), c.upDepths(i), c.levelDepths(i)[0], c.LayersPerBlock.at(i), c.AttentionHeads.at(i))
		}
		_ = c.signature()
	})
}
