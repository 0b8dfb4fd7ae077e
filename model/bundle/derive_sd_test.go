package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"fewstep/model/clip"
	"fewstep/model/ldm"
	"fewstep/model/unet"
	"fewstep/model/weights"
)

// What the shapes of Stable Diffusion 1.5 and 2.1, and what their family has, tell is what diffusers' configs say.
func TestDerivesStableDiffusion(t *testing.T) {
	for name, family := range map[string]ldm.Family{"sd1": ldm.SD1, "sd2": ldm.SD2} {
		has := untoldOf(family)
		read := func(component string) []byte {
			raw, err := os.ReadFile(filepath.Join("..", "golden", "testdata", name, component, "config.json"))
			must(t, err)
			return raw
		}
		shapesOf := func(tensors map[string][]int) *shapes {
			var all []weights.Tensor
			for name, shape := range tensors {
				all = append(all, weights.Tensor{Name: name, DType: weights.F16, Shape: shape})
			}
			return &shapes{src: weights.Collect(all)}
		}
		want, err := unet.ParseConfig(read("unet"), name)
		must(t, err)
		s := shapesOf(want.Tensors())
		raw, err := json.Marshal(unetConfig(s, 0, has))
		must(t, err)
		got, err := unet.ParseConfig(raw, name)
		must(t, err)
		if s.err != nil || !reflect.DeepEqual(got.Tensors(), want.Tensors()) || got.SampleSize != want.SampleSize || got.Architecture() != want.Architecture() || got.Architecture() == "" {
			t.Errorf("%s: %v, %s", name, s.err, raw)
		}
		// The numbers of heads change no shape. One number stands for all levels.
		if a, b := fmt.Sprint(got.AttentionHeads), fmt.Sprint(want.AttentionHeads); a != b {
			t.Errorf("%s: heads %s, want %s", name, a, b)
		}
		if got.UpcastAttention != want.UpcastAttention || got.LinearProjection != want.LinearProjection {
			t.Errorf("%s: upcast %t, linear %t", name, got.UpcastAttention, got.LinearProjection)
		}
		text, err := clip.ParseTextConfig(read("text_encoder"), name)
		must(t, err)
		s = shapesOf(text.Tensors())
		raw, err = json.Marshal(textConfig(s, has.activation))
		must(t, err)
		made, err := clip.ParseTextConfig(raw, name)
		must(t, err)
		made.ProjectionDim = text.ProjectionDim // of no projection
		made.EOSTokenID = text.EOSTokenID
		if s.err != nil || !reflect.DeepEqual(made, text) {
			t.Errorf("%s: %+v, want %+v, %v", name, made, text, s.err)
		}
	}
}
