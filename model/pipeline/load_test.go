package pipeline

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/distill"
	"fewstep/model/nn"
	"fewstep/model/weights"
)

var loadSpecs = []nn.Spec{{Name: "conv_in.weight", Dims: []int{2, 1, 1, 1}}, {Name: "conv_in.bias", Dims: []int{2}}, {Name: "mid.to_q.weight", Dims: []int{2, 3}}}

func saved(t *testing.T, metadata map[string]string, tensors ...weights.Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.safetensors")
	if err := weights.Write(path, tensors, metadata); err != nil {
		t.Fatal(err)
	}
	return path
}

func filled(name string, dtype weights.DType, value float32, shape ...int) weights.Tensor {
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = value
	}
	return weights.FromFloat32(name, shape, v, dtype)
}

func unetTensors() []weights.Tensor {
	return []weights.Tensor{filled("conv_in.weight", weights.F16, 1, 2, 1, 1, 1), filled("conv_in.bias", weights.F16, 2, 2), filled("mid.to_q.weight", weights.BF16, 3, 2, 3)}
}

func valuesOf(t *testing.T, w *Weights, name string) []float32 {
	t.Helper()
	t.Cleanup(func() { w.Close() })
	v, err := Reader(w.src)(nn.Spec{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLoadUNet(t *testing.T) {
	sampler := func(steps, prediction string) map[string]string {
		return map[string]string{"modelspec.sai_model_spec": "1.0.1", "modelspec.title": "t" + steps, "modelspec.prediction_type": prediction,
			"fewstep.sampler.steps": steps, "fewstep.sampler.guidance_scale": "1.5"}
	}
	p := &Pipeline{Dir: "unused"}
	unetFile := saved(t, sampler("1", "sample"), unetTensors()...)
	w, err := p.LoadUNet(loadSpecs, unetFile, "")
	if err != nil {
		t.Fatal(err)
	}
	if w.Steps != 1 || w.Guidance != 1.5 || w.Prediction != distill.Sample || w.Title != "t1" || !slices.Equal(valuesOf(t, w, "mid.to_q.weight"), []float32{3, 3, 3, 3, 3, 3}) {
		t.Errorf("%+v", w)
	}
	loraFile := saved(t, sampler("4", "epsilon"), filled("lora_unet_mid_to_q.lora_down.weight", weights.F16, 0.5, 1, 3),
		filled("lora_unet_mid_to_q.lora_up.weight", weights.F16, 2, 2, 1), filled("lora_unet_mid_to_q.alpha", weights.F16, 4))
	if w, err = p.LoadUNet(loadSpecs, unetFile, loraFile); err != nil {
		t.Fatal(err)
	}
	if w.Steps != 4 || w.Prediction != distill.Sample || len(w.Notes) != 1 || !strings.Contains(w.Notes[0], "made for a network that predicts epsilon") || !slices.Equal(valuesOf(t, w, "mid.to_q.weight"), []float32{7, 7, 7, 7, 7, 7}) || valuesOf(t, w, "conv_in.bias")[0] != 2 {
		t.Errorf("with a LoRA of 4/1·2·0.5 everywhere: %+v", w)
	}
	// What is none of the model's is left out and told.
	if w, err = p.LoadUNet(loadSpecs, saved(t, nil, append(unetTensors(), filled("extra.weight", weights.F16, 0, 1))...), ""); err != nil || len(w.Notes) != 1 || !strings.Contains(w.Notes[0], "extra.weight") {
		t.Errorf("%+v, %v", w, err)
	}
	// A file without metadata leaves the pipeline's own.
	if w, err = (&Pipeline{Prediction: distill.Sample}).LoadUNet(loadSpecs, saved(t, nil, unetTensors()...), ""); err != nil || w.Steps != 0 || w.Prediction != distill.Sample {
		t.Errorf("%+v, %v", w, err)
	}
}

// A file for another architecture is refused by the name of its first tensor that does not fit.
func TestLoadUNetRefuses(t *testing.T) {
	p := &Pipeline{Dir: "unused"}
	good := unetTensors()
	for what, c := range map[string]struct {
		tensors []weights.Tensor
		lora    bool
		want    string
	}{
		"missing":      {good[:2], false, "tensor mid.to_q.weight of shape [2 3] is missing"},
		"surplus":      {append(unetTensors(), filled("mid.to_q.scale", weights.F16, 0, 1)), false, "tensor mid.to_q.scale has no place in the model"},
		"shape":        {[]weights.Tensor{good[0], good[1], filled("mid.to_q.weight", weights.F16, 0, 3, 2)}, false, "tensor mid.to_q.weight has the shape [3 2], the model's is [2 3]"},
		"SD 1":         {[]weights.Tensor{filled("model.diffusion_model.time_embed.0.weight", weights.F16, 0, 1)}, false, "is missing"},
		"LoRA as UNet": {[]weights.Tensor{filled("lora_unet_mid_to_q.alpha", weights.F16, 0)}, false, "a LoRA, not a UNet"},
		"LoRA of another model": {[]weights.Tensor{filled("lora_unet_other.lora_down.weight", weights.F16, 0, 1, 3),
			filled("lora_unet_other.lora_up.weight", weights.F16, 0, 2, 1)}, true, "module other"},
		"LoRA of another size": {[]weights.Tensor{filled("lora_unet_mid_to_q.lora_down.weight", weights.F16, 0, 1, 5),
			filled("lora_unet_mid_to_q.lora_up.weight", weights.F16, 0, 2, 1)}, true, "module mid.to_q"},
	} {
		path := saved(t, nil, c.tensors...)
		unetFile, loraFile := path, ""
		if c.lora {
			unetFile, loraFile = saved(t, nil, good...), path
		}
		if _, err := p.LoadUNet(loadSpecs, unetFile, loraFile); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := p.LoadUNet(loadSpecs, saved(t, map[string]string{"modelspec.prediction_type": "flow"}, good...), ""); err == nil || !strings.Contains(err.Error(), "flow") {
		t.Errorf("unknown prediction type: %v", err)
	}
}
