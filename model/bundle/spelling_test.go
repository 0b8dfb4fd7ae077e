package bundle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/ldm"
	"fewstep/model/prediction"
	"fewstep/model/weights"
)

// respell saves a weights file with its tensors as change makes them.
func respell(t *testing.T, from, to string, change func(weights.Tensor) weights.Tensor) {
	t.Helper()
	f, err := weights.Open(from)
	must(t, err)
	defer f.Close()
	var all []weights.Tensor
	for _, name := range f.Names() {
		x, err := f.Tensor(name)
		must(t, err)
		all = append(all, change(x))
	}
	must(t, weights.Write(to+".new", all, f.Metadata()))
	must(t, os.Rename(to+".new", to))
}

// named gives tensors other names.
func named(name func(string) string) func(weights.Tensor) weights.Tensor {
	return func(x weights.Tensor) weights.Tensor {
		x.Name = name(x.Name)
		return x
	}
}

func before(prefix string) func(weights.Tensor) weights.Tensor {
	return named(func(name string) string { return prefix + name })
}

// Whatever a program has called or wrapped a component's tensors, they are those of the component.
func TestSpellings(t *testing.T) {
	const (
		unet, vae, text, text2 = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "text_encoder_2/model.safetensors"
	)
	want := filepath.Join(t.TempDir(), "want.safetensors")
	must(t, open(t, mini).WriteSingleFile(want, WriteOptions{}))
	oldAttention := strings.NewReplacer(".to_q.", ".query.", ".to_k.", ".key.", ".to_v.", ".value.", ".to_out.0.", ".proj_attn.").Replace
	without := named(func(name string) string { return strings.TrimPrefix(name, "text_model.") })
	for what, change := range map[string]map[string]func(weights.Tensor) weights.Tensor{
		"transformers 5":      {text: without, text2: without},
		"diffusers before 17": {vae: named(oldAttention)},
		"attention as 1×1 convolutions": {vae: func(x weights.Tensor) weights.Tensor {
			if strings.Contains(x.Name, ".mid_block.attentions.") && len(x.Shape) == 2 {
				x.Shape = append(slices.Clone(x.Shape), 1, 1)
			}
			return x
		}},
		"compiled":     {unet: before("_orig_mod."), vae: before("_orig_mod."), text: before("_orig_mod.")},
		"distributed":  {unet: before("module."), text2: before("module.text_encoder_2.")},
		"as attribute": {unet: before("unet."), vae: before("vae."), text: before("text_encoder."), text2: before("pipe.te2.")},
		"compiled by blocks": {unet: named(func(name string) string {
			return "model.module._orig_mod." + strings.Replace(name, ".attentions.", "._checkpoint_wrapped_module.attentions._orig_mod.", 1)
		})},
		"under an adapter": {unet: named(func(name string) string {
			return "base_model.model." + strings.Replace(name, ".to_q.", ".to_q.base_layer.", 1)
		})},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		must(t, os.CopyFS(dir, os.DirFS(mini)))
		for file, change := range change {
			respell(t, filepath.Join(mini, file), filepath.Join(dir, file), change)
		}
		b, out := open(t, dir), filepath.Join(t.TempDir(), "out.safetensors")
		if err := b.CheckAll(); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		must(t, b.WriteSingleFile(out, WriteOptions{}))
		same(t, want, out)
		if len(b.LeftOut()) > 0 {
			t.Errorf("%s: left out %v", what, b.LeftOut())
		}
	}

	hf := named(func(name string) string {
		return strings.Replace(name, "conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.transformer.", 1)
	})
	for what, change := range map[string]func(weights.Tensor) weights.Tensor{
		"transformers 5 in a file": hf,
		"module before all":        before("module."),
		"another program's names": named(func(name string) string {
			for from, to := range map[string]string{"model.diffusion_model.": "diffusion_model.", "first_stage_model.": "vae.", "conditioner.embedders.0.transformer.": "text_encoders.clip_l.", "conditioner.embedders.1.model.": "text_encoders.clip_g."} {
				if rest, ok := strings.CutPrefix(name, from); ok {
					return to + rest
				}
			}
			return name
		}),
		"compiled in a file": named(func(name string) string {
			return strings.Replace(name, "model.diffusion_model.", "model.diffusion_model._orig_mod.", 1)
		}),
	} {
		in, out := filepath.Join(t.TempDir(), "in.safetensors"), filepath.Join(t.TempDir(), "out.safetensors")
		respell(t, want, in, change)
		b, err := Open(in, Options{})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		must(t, b.WriteSingleFile(out, WriteOptions{}))
		same(t, want, out)
		if b.Layout != SingleFile || len(b.LeftOut()) > 0 {
			t.Errorf("%s: %s, left out %v", what, b.Layout, b.LeftOut())
		}
		b.Close()
	}
}

// A UNet twice in a file, or beside its moving average, is read once, the rest told.
func TestChoosesOneUNet(t *testing.T) {
	path := rewrite(t, func(x map[string]weights.Tensor, _ map[string]string) {
		for name, v := range x {
			if rest, ok := strings.CutPrefix(name, "model.diffusion_model."); ok {
				for _, other := range []string{"", "ema_model.", "model_ema.diffusion_model"} {
					v.Name = other + rest
					if other == "model_ema.diffusion_model" {
						v.Name = other + strings.ReplaceAll(rest, ".", "")
					}
					x[v.Name] = v
				}
			}
		}
	})
	b := open(t, path)
	src, err := b.Weights(ldm.UNet)
	must(t, err)
	if n := len(src.Names()); len(b.LeftOut()) != 3*n {
		t.Errorf("%d tensors left out beside a UNet of %d", len(b.LeftOut()), n)
	}
	first, err := src.Tensor("conv_in.weight")
	must(t, err)
	if _, err := first.Bytes(); err != nil {
		t.Error(err)
	}
}

// What a model predicts survives every way through every form, whichever place said it.
func TestPredictionSurvives(t *testing.T) {
	marker := func(name string) weights.Tensor {
		return weights.Tensor{Name: name, DType: weights.F32, Shape: []int{0}, Data: []byte{}}
	}
	want := prediction.Type{Target: prediction.V, ZeroSNR: true}
	for what, change := range map[string]func(map[string]weights.Tensor, map[string]string){
		"tensors": func(x map[string]weights.Tensor, m map[string]string) {
			x["v_pred"], x["ztsnr"] = marker("v_pred"), marker("ztsnr")
		},
		"tensors, no scheduler": func(x map[string]weights.Tensor, m map[string]string) {
			x["v_pred"], x["ztsnr"] = marker("v_pred"), marker("ztsnr")
			delete(m, metadataFile+schedulerFile)
		},
		"metadata": func(x map[string]weights.Tensor, m map[string]string) {
			m["modelspec.prediction_type"], m["ss_zero_terminal_snr"] = "v", "True"
			delete(m, metadataFile+schedulerFile)
		},
		"sd-scripts": func(x map[string]weights.Tensor, m map[string]string) {
			m["ss_v_parameterization"], m["ss_zero_terminal_snr"] = "True", "True"
			delete(m, metadataFile+schedulerFile)
		},
		"scheduler": func(x map[string]weights.Tensor, m map[string]string) {
			m[metadataFile+schedulerFile] = strings.Replace(m[metadataFile+schedulerFile], `"prediction_type": "epsilon"`, `"prediction_type": "v_prediction", "rescale_betas_zero_snr": true`, 1)
		},
	} {
		dir := t.TempDir()
		at := func(name string) string { return filepath.Join(dir, name) }
		check := func(path string) *Bundle {
			b := open(t, path)
			if got, _, err := b.Prediction(); err != nil || got != want {
				t.Errorf("%s: %s predicts %v, %v", what, filepath.Base(path), got, err)
			}
			if slices.ContainsFunc(b.LeftOut(), prediction.IsMarker) {
				t.Errorf("%s: markers are left out", what)
			}
			return b
		}
		b := check(rewrite(t, change))
		must(t, b.WriteSingleFile(at("single.safetensors"), WriteOptions{DType: weights.BF16}))
		must(t, b.WriteDirectory(at("dir"), WriteOptions{}))
		must(t, b.WriteUNet(at("unet.safetensors"), WriteOptions{}))
		must(t, check(at("dir")).WriteSingleFile(at("back.safetensors"), WriteOptions{}))
		check(at("unet.safetensors"))
		for _, name := range []string{"single.safetensors", "back.safetensors"} {
			check(at(name))
			f, err := weights.Open(at(name))
			must(t, err)
			for _, marker := range []string{"v_pred", "ztsnr"} {
				if x, err := f.Tensor(marker); err != nil || x.Elements() != 0 {
					t.Errorf("%s: %s has no tensor %s", what, name, marker)
				}
			}
			if got := f.Metadata()["modelspec.prediction_type"]; got != "v" {
				t.Errorf("%s: modelspec.prediction_type of %s is %q", what, name, got)
			}
			f.Close()
		}
		// A UNet file brings along what it predicts into another base.
		whole, other := open(t, mini), open(t, at("unet.safetensors"))
		must(t, whole.Take(other))
		if got, _, err := whole.Prediction(); err != nil || got != want {
			t.Errorf("%s: taken into a base it predicts %v, %v", what, got, err)
		}
	}
	// One that says nothing predicts what its base does.
	whole, silent := open(t, rewrite(t, func(x map[string]weights.Tensor, m map[string]string) { x["v_pred"] = marker("v_pred") })), filepath.Join(t.TempDir(), "unet.safetensors")
	must(t, open(t, mini).WriteUNet(silent, WriteOptions{}))
	must(t, whole.Take(open(t, silent)))
	if got, _, err := whole.Prediction(); err != nil || got.Target != prediction.V {
		t.Errorf("%v, %v", got, err)
	}
}
