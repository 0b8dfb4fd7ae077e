// Package inspect says what a weights file is, by the names of its tensors: which part of which kind of model, how
// large, in which element types, whether every value is finite, and what loads it.
package inspect

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/model/weights"
)

// Kind is what a file holds.
type Kind string

// Kinds of files.
const (
	UNet       Kind = "UNet"         // diffusers' names
	LoRA       Kind = "LoRA"         // kohya's, diffusers' or PEFT's names
	Adapters   Kind = "adapters"     // a LoRA phase's result in a run directory
	VAE        Kind = "VAE"          // diffusers' AutoencoderKL
	Text       Kind = "text encoder" // transformers' CLIPTextModel
	CLIP       Kind = "CLIP"         // transformers' CLIPModel
	SingleFile Kind = "single file"  // all parts under LDM's names
	Other      Kind = "other"
)

// Report describes one weights file, or a component folder's files together.
type Report struct {
	Path       string            `json:"path"`
	Kind       Kind              `json:"kind"`
	Detail     string            `json:"detail,omitempty"` // naming, rank, …
	LoadedBy   string            `json:"loaded_by"`
	Tensors    int               `json:"tensors"`
	Parameters int64             `json:"parameters"`
	Bytes      int64             `json:"bytes"`
	DTypes     map[string]int    `json:"dtypes"` // tensors by element type
	NotFinite  []string          `json:"not_finite"`
	Unread     []string          `json:"unread,omitempty"` // tensors whose values cannot be checked
	Hash       string            `json:"hash,omitempty"`   // of the data against modelspec's: Sound or Differs; empty without one
	Metadata   map[string]string `json:"metadata,omitempty"`
}

// Values of Report.Hash.
const (
	Sound   = "sound"
	Differs = "differs"
)

// Path examines a safetensors file, a component folder, a diffusers directory with all its components, or a folder of
// several weight files, each by itself.
func Path(path string) ([]Report, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.IsDir() {
		r, err := File(path)
		return []Report{r}, err
	}
	if _, err := os.Stat(filepath.Join(path, "model_index.json")); err != nil {
		return folder(path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var all []Report
	for _, e := range entries {
		folder := filepath.Join(path, e.Name())
		if _, err := weights.ModelFiles(folder); !e.IsDir() || err != nil {
			continue // a tokenizer, the scheduler
		}
		r, err := File(folder)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: a diffusers directory without weights", path)
	}
	return all, nil
}

// folder examines a component, or else every weight file of a folder.
func folder(path string) ([]Report, error) {
	files := []string{path}
	if _, err := weights.ModelFiles(path); err != nil {
		names, _ := os.ReadDir(path)
		files = nil
		for _, e := range names {
			if filepath.Ext(e.Name()) == ".safetensors" {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, err
		}
	}
	var all []Report
	for _, f := range files {
		r, err := File(f)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// File examines one safetensors file, or a component folder's files together.
func File(path string) (Report, error) {
	src, err := weights.OpenModel(path)
	if err != nil {
		return Report{}, err
	}
	defer src.Close()
	r := Report{Path: path, DTypes: map[string]int{}, NotFinite: []string{}}
	if f, ok := src.(*weights.File); ok {
		r.Metadata = f.Metadata()
	}
	names := src.Names()
	r.Kind, r.Detail = classify(names)
	var tensors []weights.Tensor
	for _, name := range names {
		t, err := src.Tensor(name)
		if err != nil {
			return Report{}, err
		}
		tensors = append(tensors, t)
		r.Tensors++
		r.Parameters += int64(t.Elements())
		r.Bytes += int64(t.Elements()) * int64(t.DType.Size())
		r.DTypes[string(t.DType)]++
		if r.Kind == LoRA && strings.Contains(name, "lora_down") && !strings.Contains(r.Detail, "rank") && len(t.Shape) > 0 {
			r.Detail += fmt.Sprintf(", rank %d", t.Shape[0])
		}
		v, err := t.Float32()
		if err != nil {
			r.Unread = append(r.Unread, name)
		} else if slices.ContainsFunc(v, func(x float32) bool { return math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) }) {
			r.NotFinite = append(r.NotFinite, name)
		}
	}
	r.LoadedBy = loaders[r.Kind]
	if want := r.Metadata[weights.KeyHash]; want != "" {
		got, err := weights.DataHash(tensors)
		if err != nil {
			return Report{}, err
		}
		r.Hash = Differs
		if got == want {
			r.Hash = Sound
		}
	}
	return r, nil
}

var loaders = map[Kind]string{
	UNet:       "fewstep sample --unet; ComfyUI's UNETLoader; diffusers' UNet2DConditionModel, beside its config.json",
	LoRA:       "fewstep sample --lora; ComfyUI's LoraLoader; diffusers' load_lora_weights",
	Adapters:   "fewstep export, which writes it as a LoRA file",
	VAE:        "diffusers' AutoencoderKL, beside its config.json; ComfyUI's VAELoader",
	Text:       "transformers' CLIPTextModel, beside its config.json",
	CLIP:       "transformers' CLIPModel, beside its config.json",
	SingleFile: "ComfyUI's CheckpointLoaderSimple; diffusers' from_single_file",
	Other:      "unknown",
}

// classify tells the kind by names that no other kind has.
func classify(names []string) (Kind, string) {
	has := func(parts ...string) int {
		n := 0
		for _, name := range names {
			if slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(name, p) }) {
				n++
			}
		}
		return n
	}
	begins := func(prefix string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) })
	}
	switch {
	case has(".weight.lora_down") > 0:
		return Adapters, fmt.Sprintf("%d modules", has(".weight.lora_down"))
	case has(".lora_down.weight") > 0:
		return LoRA, fmt.Sprintf("kohya's names, %d modules", has(".lora_down.weight"))
	case has(".lora_A.") > 0:
		return LoRA, fmt.Sprintf("PEFT's names, %d modules", has(".lora_A."))
	case has("lora.down.weight", "lora_linear_layer.down.weight") > 0:
		return LoRA, fmt.Sprintf("diffusers' older names, %d modules", has("lora.down.weight", "lora_linear_layer.down.weight"))
	case begins("model.diffusion_model."):
		parts := []string{"UNet"}
		if begins("first_stage_model.") {
			parts = append(parts, "VAE")
		}
		if begins("conditioner.") || begins("cond_stage_model.") {
			parts = append(parts, "text encoders")
		}
		return SingleFile, strings.Join(parts, ", ")
	case begins("down_blocks.") && begins("time_embedding."):
		if begins("add_embedding.") {
			return UNet, "SDXL's family (text and time conditions)"
		}
		return UNet, ""
	case begins("encoder.") && begins("decoder."):
		return VAE, ""
	case begins("text_model.") && begins("vision_model."):
		return CLIP, ""
	case begins("text_model."):
		if begins("text_projection.") {
			return Text, "with projection"
		}
		return Text, ""
	}
	return Other, ""
}

// Types lists the element types, the most frequent first: "F16 ×900, F32 ×3".
func (r Report) Types() string {
	types := slices.SortedFunc(maps.Keys(r.DTypes), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.DTypes[b], r.DTypes[a]), cmp.Compare(a, b))
	})
	for i, t := range types {
		types[i] = fmt.Sprintf("%s ×%d", t, r.DTypes[t])
	}
	return strings.Join(types, ", ")
}
