// Package tinypipeline writes what tests of whole runs need: a random model of the structure of SDXL, or of Stable
// Diffusion 1 or 2, in a few hundred kilobytes, captioned images to go with it, and a recipe that walks the paper's ladder over them in seconds.
// Equal calls give equal bytes.
package tinypipeline

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/clip"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// Resolution is the side of the images in pixels. The VAE halves it.
const Resolution = 16

// Write makes dir/tinymodel, dir/images.parquet and dir/recipe.yaml, and returns the recipe's path. The tokenizers are
// those of the model directory tokenizers.
func Write(dir, tokenizers string) (recipe string, err error) {
	return write(dir, func(model string) error { return Model(model, tokenizers) })
}

// WriteSD is Write with the model of SD.
func WriteSD(dir, tokenizers string, version int) (recipe string, err error) {
	return write(dir, func(model string) error { return SD(model, tokenizers, version) })
}

func write(dir string, model func(dir string) error) (recipe string, err error) {
	if err := model(filepath.Join(dir, "tinymodel")); err != nil {
		return "", err
	}
	if err := Images(filepath.Join(dir, "images.parquet")); err != nil {
		return "", err
	}
	recipe = filepath.Join(dir, "recipe.yaml")
	return recipe, os.WriteFile(recipe, []byte(Recipe), 0o644)
}

// Model makes dir a diffusers directory of SDXL's structure with random weights.
func Model(dir, tokenizers string) error {
	return model(dir, tokenizers, sdxl, "tokenizer", "tokenizer_2")
}

// SD makes dir a diffusers directory with random weights of the structure of Stable Diffusion 1, or 2, which predicts v.
func SD(dir, tokenizers string, version int) error {
	return model(dir, tokenizers, sd(version), "tokenizer")
}

func model(dir, tokenizers string, configs map[string]object, folders ...string) error {
	for path, c := range configs {
		if err := writeJSON(filepath.Join(dir, path), c); err != nil {
			return err
		}
	}
	for _, folder := range folders {
		if err := os.CopyFS(filepath.Join(dir, folder), os.DirFS(filepath.Join(tokenizers, folder))); err != nil {
			return err
		}
	}
	p, err := pipeline.Open(dir)
	if err != nil {
		return err
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	return drawWeights(p, rt.Backend)
}

func drawWeights(p *pipeline.Pipeline, b compute.Backend) error {
	unet, err := p.UNetSpecs(b, nil)
	if err != nil {
		return err
	}
	vae, err := p.VAESpecs(b)
	if err != nil {
		return err
	}
	components := map[string][]nn.Spec{"unet": unet, "vae": vae}
	for i, c := range p.Text {
		if components[p.Kind.Text[i]], err = nn.Trace(b, c.Text(""), p.TextShapes(1)...); err != nil {
			return err
		}
	}
	side := p.Vision.ImageSize
	vision, err := nn.Trace(b, p.Vision.Vision(""), shapes.Make(dtypes.Float32, 1, side, side, 3))
	if err != nil {
		return err
	}
	metric, err := clip.LoadTextConfig(filepath.Join(p.Dir, "clip", "config.json"))
	if err != nil {
		return err
	}
	own, err := nn.Trace(b, metric.Text(""), p.TextShapes(1)...)
	if err != nil {
		return err
	}
	embedding := shapes.Make(dtypes.Float32, 1, p.Vision.ProjectionDim)
	scale, err := nn.Trace(b, clip.Logits(""), embedding, embedding)
	if err != nil {
		return err
	}
	both := append(append(vision, own...), scale...)
	sort.Slice(both, func(i, j int) bool { return both[i].Name < both[j].Name })
	components["clip"] = both
	for component, specs := range components {
		values := fresh(component, specs)
		if err := pipeline.Write(p.Dir, component, specs, values, weights.F32, map[string]string{"format": "pt"}); err != nil {
			return fmt.Errorf("%s: %w", component, err)
		}
	}
	return nil
}

// fresh draws weights that depend on the component's and the tensors' names alone.
func fresh(component string, specs []nn.Spec) engine.Tensors {
	const seed = 7
	number := func(name string) (h int64) {
		for _, c := range component + "/" + name {
			h = (h*131 + int64(c)) & (1<<62 - 1)
		}
		return h
	}
	return engine.Fresh(specs,
		func(name string, v []float32) {
			for i := range v {
				v[i] = float32(distill.Uniform(seed, distill.Init, number(name), uint32(i)))
			}
		},
		func(name string, v []float32) {
			distill.Normal(v, seed, distill.Init, number(name))
			for i := range v {
				v[i] *= 50 // deviation 1 after Fresh: captions must tell embeddings apart
			}
		})
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
