package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"fewstep/model/ldm"
	"fewstep/model/weights"
)

const mini = "../../assets/mini"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *Bundle {
	t.Helper()
	b, err := Open(path, Options{})
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// SDXL's single file, without metadata, gives SDXL's configs: what decides the structure is that of diffusers' files.
func TestDerivesSDXL(t *testing.T) {
	var tensors []weights.Tensor
	for _, x := range referenceTensors(t) {
		tensors = append(tensors, x)
	}
	c, err := ldm.New("sdxl", weights.Collect(tensors), nil)
	must(t, err)
	b := newBundle("sdxl", SingleFile)
	b.checkpoint, b.files = c, map[string][]byte{}
	must(t, b.derive())
	must(t, b.CheckAll())
	for _, component := range ldm.Components {
		raw, err := b.File(component + "/config.json")
		must(t, err)
		var got, want map[string]any
		must(t, json.Unmarshal(raw, &got))
		reference, err := os.ReadFile(filepath.Join("../golden/testdata/sdxl", component, "config.json"))
		must(t, err)
		must(t, json.Unmarshal(reference, &want))
		for key, value := range got {
			if other, ok := want[key]; !ok && key != "dropout" || ok && !reflect.DeepEqual(value, other) {
				t.Errorf("%s: %s is %v, diffusers has %v", component, key, value, other)
			}
		}
	}
	tok, err := b.Tokenizer(ldm.Text2)
	must(t, err)
	if tok.Pad != 0 || tok.MaxLength != 77 || !tok.Standard() {
		t.Errorf("second tokenizer: pad %d, length %d", tok.Pad, tok.MaxLength)
	}
}

// Directory, single file, UNet file and back: the same bytes, whatever the way.
func TestRoundTrips(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	b := open(t, mini)
	var told, total int64
	must(t, b.WriteSingleFile(at("a.safetensors"), WriteOptions{Progress: func(done, of int64) { told, total = done, of }}))
	if told != total || total < 20e6 {
		t.Errorf("progress %d of %d", told, total)
	}
	single := open(t, at("a.safetensors"))
	if single.Layout != SingleFile {
		t.Errorf("layout %s", single.Layout)
	}
	must(t, single.WriteDirectory(at("b"), WriteOptions{}))
	must(t, open(t, at("b")).WriteSingleFile(at("c.safetensors"), WriteOptions{}))
	must(t, single.WriteUNet(at("d.safetensors"), WriteOptions{DType: weights.F32}))
	unet := open(t, at("d.safetensors"))
	if unet.Layout != UNetFile {
		t.Errorf("layout %s", unet.Layout)
	}
	whole := open(t, at("b"))
	must(t, whole.Take(unet))
	must(t, whole.WriteSingleFile(at("e.safetensors"), WriteOptions{DType: weights.F16}))
	same(t, at("a.safetensors"), at("c.safetensors"))
	same(t, at("a.safetensors"), at("e.safetensors"))
	small := slices.DeleteFunc(smallFiles(), func(name string) bool { return path.Base(name) == "tokenizer.json" }) // mini has none
	for _, name := range append(small, "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
		"text_encoder/model.safetensors", "text_encoder_2/model.safetensors") {
		same(t, filepath.Join(mini, name), at("b/"+name))
	}
}

// Shards and variants are read as the plain files are.
func TestShardsAndVariants(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sharded")
	must(t, os.CopyFS(dir, os.DirFS(mini)))
	path := filepath.Join(dir, "unet", "diffusion_pytorch_model.safetensors")
	f, err := weights.Open(path)
	must(t, err)
	defer f.Close()
	index := map[string]any{"metadata": map[string]any{}, "weight_map": map[string]string{}}
	var shards [2][]weights.Tensor
	for i, name := range f.Names() {
		x, err := f.Tensor(name)
		must(t, err)
		shards[i%2] = append(shards[i%2], x)
		index["weight_map"].(map[string]string)[name] = fmt.Sprintf("part-%d.safetensors", i%2)
	}
	for i, tensors := range shards {
		must(t, weights.Write(filepath.Join(dir, "unet", fmt.Sprintf("part-%d.safetensors", i)), tensors, nil))
	}
	must(t, os.WriteFile(path+".index.json", indented(index), 0o666))
	must(t, os.Remove(path))
	must(t, os.Rename(filepath.Join(dir, "vae", "diffusion_pytorch_model.safetensors"), filepath.Join(dir, "vae", "diffusion_pytorch_model.fp16.safetensors")))
	b := open(t, dir)
	must(t, b.CheckAll())
	out := filepath.Join(t.TempDir(), "out")
	must(t, b.WriteDirectory(out, WriteOptions{}))
	for _, name := range []string{"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"} {
		same(t, filepath.Join(mini, name), filepath.Join(out, name))
	}
	must(t, os.Remove(filepath.Join(dir, "unet", "part-1.safetensors")))
	if _, err := open(t, dir).Weights(ldm.UNet); err == nil || !strings.Contains(err.Error(), "part-1.safetensors") || !strings.Contains(err.Error(), "index.json") {
		t.Errorf("a missing shard: %v", err)
	}
}

func same(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	must(t, err)
	y, err := os.ReadFile(b)
	must(t, err)
	if !bytes.Equal(x, y) {
		t.Errorf("%s and %s differ", a, b)
	}
}

// A model that describes itself keeps doing so, with the hash of each file's own data.
func TestDescription(t *testing.T) {
	dir := t.TempDir()
	b := open(t, mini)
	spec, err := weights.ModelSpec{Architecture: "a", Implementation: "diffusers", Title: "t", SamplerSteps: 4, Spacing: "trailing", PredictionType: "epsilon"}.Metadata()
	must(t, err)
	b.ReplaceMetadata(spec)
	must(t, b.WriteSingleFile(filepath.Join(dir, "x.safetensors"), WriteOptions{}))
	single := open(t, filepath.Join(dir, "x.safetensors"))
	must(t, single.WriteDirectory(filepath.Join(dir, "d"), WriteOptions{}))
	for path, implementation := range map[string]string{filepath.Join(dir, "x.safetensors"): sgm, filepath.Join(dir, "d/unet/diffusion_pytorch_model.safetensors"): "diffusers"} {
		f, err := weights.Open(path)
		must(t, err)
		var tensors []weights.Tensor
		for _, name := range f.Names() {
			x, err := f.Tensor(name)
			must(t, err)
			tensors = append(tensors, x)
		}
		hash, err := weights.DataHash(tensors)
		must(t, err)
		got, _ := weights.ParseModelSpec(f.Metadata())
		if got.Implementation != implementation || got.DataHash != hash || got.SamplerSteps != 4 || got.Title != "t" {
			t.Errorf("%s: %+v, its hash is %s", path, got, hash)
		}
		f.Close()
	}
}

// rewrite saves mini's single file with some tensors changed, and other metadata.
func rewrite(t *testing.T, change func(map[string]weights.Tensor, map[string]string)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "whole.safetensors")
	must(t, open(t, mini).WriteSingleFile(path, WriteOptions{}))
	f, err := weights.Open(path)
	must(t, err)
	defer f.Close()
	tensors, metadata := map[string]weights.Tensor{}, f.Metadata()
	for _, name := range f.Names() {
		x, err := f.Tensor(name)
		must(t, err)
		tensors[name] = x
	}
	change(tensors, metadata)
	out := filepath.Join(t.TempDir(), "changed.safetensors")
	must(t, weights.Write(out, slices.Collect(maps.Values(tensors)), metadata))
	return out
}

func TestRefuses(t *testing.T) {
	const unet, open = "model.diffusion_model.", "conditioner.embedders.1.model."
	value := func(name string, shape ...int) weights.Tensor {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return weights.FromFloat32(name, shape, make([]float32, n), weights.F16)
	}
	for what, c := range map[string]struct {
		change func(x map[string]weights.Tensor, metadata map[string]string)
		want   string
	}{
		"missing tensor": {func(x map[string]weights.Tensor, _ map[string]string) { delete(x, unet+"out.2.weight") }, "1 tensors are missing (conv_out.weight)"},
		"half the blocks": {func(x map[string]weights.Tensor, _ map[string]string) {
			maps.DeleteFunc(x, func(n string, _ weights.Tensor) bool { return strings.HasPrefix(n, unet+"output_blocks") })
		}, "tensors are missing (up_blocks.0"},
		"other shape": {func(x map[string]weights.Tensor, _ map[string]string) {
			x[unet+"out.2.bias"] = value(unet+"out.2.bias", 5)
		}, "tensor conv_out.bias has the shape [5], the config's is [4]"},
		"scaled fp8": {func(x map[string]weights.Tensor, _ map[string]string) {
			x[unet+"out.2.scale_weight"] = value(unet+"out.2.scale_weight", 1)
		}, "conv_out.scale_weight"},
		"a block too many": {func(x map[string]weights.Tensor, _ map[string]string) {
			x[unet+"output_blocks.12.0.in_layers.0.weight"] = value(unet+"output_blocks.12.0.in_layers.0.weight", 1)
		}, "tensor " + unet + "output_blocks.12.0.in_layers.0.weight has no place"},
		"a layer too many": {func(x map[string]weights.Tensor, _ map[string]string) {
			name := unet + "middle_block.1.transformer_blocks.9.norm1.weight"
			x[name] = value(name, 1)
		}, "1 tensors have no place in the model (mid_block.attentions.0.transformer_blocks.9.norm1.weight)"},
		"twice": {func(x map[string]weights.Tensor, _ map[string]string) {
			x[open+"text_projection.weight"] = value(open+"text_projection.weight", 128, 128)
		}, "is the same part of the model"},
		"fused by four": {func(x map[string]weights.Tensor, _ map[string]string) {
			name := open + "transformer.resblocks.0.attn.in_proj_bias"
			x[name] = value(name, 385)
		}, "not query, key and value"},
		"no configs":    {func(_ map[string]weights.Tensor, m map[string]string) { clear(m) }, ErrUnknownHeads.Error()},
		"broken config": {func(_ map[string]weights.Tensor, m map[string]string) { m[metadataFile+"unet/config.json"] = "{" }, "unet/config.json"},
		"config of another": {func(_ map[string]weights.Tensor, m map[string]string) {
			m[metadataFile+"unet/config.json"] = strings.ReplaceAll(m[metadataFile+"unet/config.json"], `"layers_per_block": 2`, `"layers_per_block": 3`)
		}, "tensors are missing (down_blocks"},
		"SD 1": {func(x map[string]weights.Tensor, _ map[string]string) {
			maps.DeleteFunc(x, func(n string, _ weights.Tensor) bool { return strings.Contains(n, "label_emb") })
		}, "4 tensors are missing (add_embedding"},
		"inpainting": {func(x map[string]weights.Tensor, _ map[string]string) {
			x[unet+"input_blocks.0.0.weight"] = value(unet+"input_blocks.0.0.weight", 32, 9, 3, 3)
		}, "tensor conv_in.weight has the shape [32 9 3 3], the config's is [32 4 3 3]"},
		"conditioned on more": {func(x map[string]weights.Tensor, _ map[string]string) {
			x[unet+"time_embed.cond_proj.weight"] = value(unet+"time_embed.cond_proj.weight", 32, 64)
		}, "time_embed.cond_proj.weight has no place"},
	} {
		path := rewrite(t, c.change)
		b, err := Open(path, Options{})
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What other tools add is left out, and told.
func TestLeavesOut(t *testing.T) {
	path := rewrite(t, func(x map[string]weights.Tensor, _ map[string]string) {
		for _, name := range []string{"model_ema.decay", "model.diffusion_model.extra.weight", "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
			"model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.processor.to_k_ip.weight", "bundle_emb.x.clip_l", "conditioner.embedders.0.transformer.text_model.embeddings.position_ids", "conditioner.embedders.1.model.logit_scale", "v_pred"} {
			x[name] = weights.FromFloat32(name, []int{}, []float32{1}, weights.F32)
		}
	})
	b := open(t, path)
	if got := b.LeftOut(); len(got) != 7 {
		t.Errorf("left out %v", got)
	}
}

// A file without tokenizers wants them by name or beside it.
func TestTokenizers(t *testing.T) {
	path := rewrite(t, func(_ map[string]weights.Tensor, m map[string]string) {
		maps.DeleteFunc(m, func(key, _ string) bool {
			return strings.Contains(key, "tokenizer/") || strings.Contains(key, "tokenizer_2/")
		})
	})
	b := open(t, path)
	if _, err := b.Tokenizer(ldm.Text); err == nil || !strings.Contains(err.Error(), "--config") || !strings.Contains(err.Error(), path) || b.HasTokenizers() {
		t.Errorf("without: %v", err)
	}
	if err := b.WriteDirectory(filepath.Join(t.TempDir(), "x"), WriteOptions{}); err == nil {
		t.Error("wrote a directory without tokenizers")
	}
	named, err := Open(path, Options{Config: mini})
	must(t, err)
	defer named.Close()
	if tok, err := named.Tokenizer(ldm.Text2); err != nil || tok.Pad != 0 {
		t.Errorf("named: %v", err)
	}
	for _, name := range []string{"tokenizer", "tokenizer_2"} {
		must(t, os.CopyFS(filepath.Join(filepath.Dir(path), name), os.DirFS(filepath.Join(mini, name))))
	}
	if tok, err := open(t, path).Tokenizer(ldm.Text); err != nil || tok.Pad != tok.EOS {
		t.Errorf("beside: %v", err)
	}
}

// Nothing is left of what cannot be written.
func TestReadOnlyTarget(t *testing.T) {
	if os.Geteuid() == 0 {
		// root writes everywhere: a file in a folder's place is refused to it too
		file := filepath.Join(t.TempDir(), "file")
		must(t, os.WriteFile(file, nil, 0o666))
		b := open(t, mini)
		for _, err := range []error{b.WriteDirectory(filepath.Join(file, "x"), WriteOptions{}), b.WriteSingleFile(filepath.Join(file, "x.safetensors"), WriteOptions{})} {
			if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "is a file, not a folder") {
				t.Errorf("%v", err)
			}
		}
		return
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o555))
	b := open(t, mini)
	for _, err := range []error{b.WriteDirectory(filepath.Join(dir, "x"), WriteOptions{}), b.WriteSingleFile(filepath.Join(dir, "x.safetensors"), WriteOptions{})} {
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v", err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left behind %v", entries)
	}
}

// A file without a VAE keeps its own text encoders, and takes the VAE alone from its base.
func TestTake(t *testing.T) {
	name := "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"
	path := rewrite(t, func(x map[string]weights.Tensor, _ map[string]string) {
		maps.DeleteFunc(x, func(n string, _ weights.Tensor) bool { return strings.HasPrefix(n, "first_stage_model.") })
		x[name] = weights.FromFloat32(name, []int{64}, slices.Repeat([]float32{7}, 64), weights.F16)
	})
	whole := open(t, mini)
	must(t, whole.Take(open(t, path)))
	must(t, whole.Complete())
	out := filepath.Join(t.TempDir(), "out.safetensors")
	must(t, whole.WriteSingleFile(out, WriteOptions{}))
	f, err := weights.Open(out)
	must(t, err)
	defer f.Close()
	x, err := f.Tensor(name)
	must(t, err)
	if v, err := x.Float32(); err != nil || v[0] != 7 || len(v) != 64 {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := f.Tensor("first_stage_model.quant_conv.weight"); err != nil {
		t.Error(err)
	}
}

func TestTakeRefusesAnotherModel(t *testing.T) {
	b := open(t, mini)
	src, err := b.Weights(ldm.UNet)
	must(t, err)
	var tensors []weights.Tensor
	for _, name := range src.Names()[1:] {
		x, err := src.Tensor(name)
		must(t, err)
		tensors = append(tensors, x)
	}
	if err := b.Replace(ldm.UNet, weights.Collect(tensors)); err == nil || !strings.Contains(err.Error(), "no tensor "+src.Names()[0]) {
		t.Errorf("%v", err)
	}
}
