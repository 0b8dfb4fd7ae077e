package configs

import (
	"fmt"
	"strings"
)

// Provenance says which layer gave a key of a recipe its value.
type Provenance struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from"` // "default", "FILE:LINE", "environment NAME" or "--set", the later over the earlier
}

// Provenance lists every key in the order of the canonical form.
func (c *Recipe) Provenance() []Provenance {
	f := flatten(c)
	out := make([]Provenance, len(f.keys))
	for i, key := range f.keys {
		from := c.given[key]
		if from == "" {
			from = "default"
		}
		out[i] = Provenance{key, f.values[key], from}
	}
	return out
}

// EnvName is the environment variable that gives a key outside of stages: FEWSTEP_TRAIN_BATCH for train.batch.
func EnvName(key string) string {
	return "FEWSTEP_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// environment applies the variables that name keys of the recipe.
func (c *Recipe) environment(lookup func(name string) (string, bool)) error {
	for _, key := range flatten(&Recipe{}).keys {
		name := EnvName(key)
		value, ok := lookup(name)
		if !ok || key == "stages" {
			continue
		}
		if err := c.set(key+"="+value, "environment "+name); err != nil {
			return fmt.Errorf("environment %s: %w", name, err)
		}
	}
	return nil
}
