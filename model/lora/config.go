package lora

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"fewstep/internal/text"
	"fewstep/model/ldm"
)

// configFile is the file beside PEFT's weights that says how they are scaled.
const configFile = "adapter_config.json"

// adapterConfig is what matters of PEFT's config. Its zero value means that there is none.
type adapterConfig struct {
	where  string
	alpha  *float64
	rank   *float64
	alphas []pattern
	ranks  []pattern
	rslora bool
}

// pattern is an entry of alpha_pattern or rank_pattern.
type pattern struct {
	match *regexp.Regexp
	value float64
}

// configs are the adapter's configs by component.
type configs map[string]adapterConfig

// metadataKey is where diffusers puts PEFT's configs into a LoRA file, each key behind its component's name.
const metadataKey = "lora_adapter_metadata"

// configsOf reads the config in a file's metadata, or the one beside the file.
func configsOf(path string, metadata map[string]string) (configs, error) {
	raw, where := []byte(metadata[metadataKey]), "metadata key "+metadataKey
	if len(raw) == 0 {
		where = filepath.Join(filepath.Dir(path), configFile)
		var err error
		if raw, err = besideFile(path); err != nil || raw == nil {
			return nil, err
		}
	}
	all := configs{}
	for _, component := range []string{ldm.UNet, ldm.Text, ldm.Text2} {
		c, err := parseConfig(raw, component+".")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		c.where = where
		all[component] = c
	}
	return all, nil
}

// besideFile is the config beside a file that PEFT has named, or that is the folder's only weights; nil where there is none.
func besideFile(path string) ([]byte, error) {
	folder := filepath.Dir(path)
	raw, err := os.ReadFile(filepath.Join(folder, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(filepath.Base(path), "adapter_model") {
		if others, err := filepath.Glob(filepath.Join(folder, "*.safetensors")); err != nil || len(others) != 1 {
			return nil, nil
		}
	}
	return raw, nil
}

// parseConfig reads a config's keys, those behind the component's prefix before the bare ones.
func parseConfig(raw []byte, prefix string) (c adapterConfig, err error) {
	fields := map[string]json.RawMessage{}
	if err := text.JSON(raw, &fields); err != nil {
		return c, err
	}
	// Of a pipeline's config, the bare keys are none of a text encoder's.
	prefixed := false
	for key := range fields {
		for _, component := range []string{ldm.UNet, ldm.Text, ldm.Text2} {
			prefixed = prefixed || strings.HasPrefix(key, component+".")
		}
	}
	field := func(name string) json.RawMessage {
		if value, ok := fields[prefix+name]; ok {
			return value
		}
		if prefixed && prefix != ldm.UNet+"." {
			return nil
		}
		return fields[name]
	}
	for name, into := range map[string]any{"lora_alpha": &c.alpha, "r": &c.rank, "use_rslora": &c.rslora} {
		if value := field(name); value != nil {
			if err := json.Unmarshal(value, into); err != nil {
				return c, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if c.alpha == nil { // what PEFT's LoHa and LoKr call it
		if value := field("alpha"); value != nil {
			if err := json.Unmarshal(value, &c.alpha); err != nil {
				return c, fmt.Errorf("alpha: %w", err)
			}
		}
	}
	if c.alphas, err = parsePatterns(field("alpha_pattern")); err != nil {
		return c, fmt.Errorf("alpha_pattern: %w", err)
	}
	if c.ranks, err = parsePatterns(field("rank_pattern")); err != nil {
		return c, fmt.Errorf("rank_pattern: %w", err)
	}
	return c, nil
}

// parsePatterns reads a JSON object in its order: the first pattern that matches counts.
func parsePatterns(raw json.RawMessage) (list []pattern, err error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("it is not an object of patterns and numbers")
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		text, _ := token.(string)
		var value float64
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		match, err := regexp.Compile(`^(?:.*\.)?(?:` + text + `)$`)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be matched: %w", text, err)
		}
		list = append(list, pattern{match, value})
	}
	return list, nil
}

// of is the value of the first pattern that matches a layer's path, as PEFT's get_pattern_key does it: a whole path or the
// end of one behind a dot. Without one, it is otherwise.
func of(list []pattern, path string, otherwise *float64) *float64 {
	for _, p := range list {
		if p.match.MatchString(path) || p.match.MatchString(strings.TrimPrefix(path, "text_model.")) {
			return &p.value
		}
	}
	return otherwise
}

// scale is alpha of a layer without an alpha tensor, for adapters of the given rank, which are scaled by alpha/rank; rank
// 0 is that of the config. ok is false where no config says it.
func (c adapterConfig) scale(path string, rank int) (alpha float64, ok bool) {
	value := of(c.alphas, path, c.alpha)
	if value == nil {
		return 0, false
	}
	alpha = *value
	if rank == 0 {
		r := of(c.ranks, path, c.rank)
		if r == nil || *r <= 0 {
			return 0, false
		}
		return alpha / *r, true
	}
	if c.rslora {
		alpha *= math.Sqrt(float64(rank))
	}
	return alpha, true
}

// File gives the path of the weights where it is a folder's: that of an adapter which PEFT or diffusers has saved.
func File(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return path, nil // its own error comes where it is opened
	}
	for _, name := range []string{"adapter_model.safetensors", "pytorch_lora_weights.safetensors"} {
		if _, err := os.Stat(filepath.Join(path, name)); err == nil {
			return filepath.Join(path, name), nil
		}
	}
	files, err := filepath.Glob(filepath.Join(path, "*.safetensors"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("%s: the folder holds no adapter_model.safetensors or pytorch_lora_weights.safetensors: name the LoRA's file", path)
	}
	return files[0], nil
}
