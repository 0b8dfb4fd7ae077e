package configs

import (
	"fmt"
	"regexp"
	"slices"
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

// variables are the environment variables that other parts of fewstep read: the cluster's, and those of tests.
var variables = []string{FileEnv, "FEWSTEP_SECRET", "FEWSTEP_SECRET_FILE", "FEWSTEP_PLAIN_PJRT", "FEWSTEP_REQUIRE_XLA",
	"FEWSTEP_SLOW_TESTS", "FEWSTEP_SCALE", "FEWSTEP_SCALE_SERVES", "FEWSTEP_SCALE_RECIPE", "FEWSTEP_SCALE_SOURCE",
	"FEWSTEP_SCALE_OUT", "FEWSTEP_PACE", "FEWSTEP_PACE_SIDE", "FEWSTEP_SDXL_SIDE", "FEWSTEP_INTEROP_PYTHON",
	"FEWSTEP_CLUSTER_TEST_WORKER"}

// service are the variables that Kubernetes sets in every container for a service named fewstep.
var service = regexp.MustCompile(`^FEWSTEP_(SERVICE_HOST|SERVICE_PORT.*|PORT|PORT_[0-9].*)$`)

// Misspelt tells of every variable of an environment (see os.Environ) that begins as fewstep's do and that nothing reads.
func Misspelt(environ []string) (told []string) {
	names := slices.Clone(variables)
	for _, s := range known {
		names = append(names, s.env...)
	}
	for _, key := range flatten(&Recipe{}).keys {
		if key != "stages" {
			names = append(names, EnvName(key))
		}
	}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		short, ours := strings.CutPrefix(name, "FEWSTEP_")
		if !ours || slices.Contains(names, name) || service.MatchString(name) || strings.HasPrefix(short, "TEST_") {
			continue
		}
		hint := ""
		if near := nearest(short, names, func(known string) string { return strings.TrimPrefix(known, "FEWSTEP_") }); near != "" {
			hint = fmt.Sprintf("; did you mean %s?", near)
		} else if strings.HasPrefix(short, "STAGES") {
			hint = "; keys of stages are changed by --set"
		}
		told = append(told, fmt.Sprintf("the environment variable %s names no setting and no key of a recipe, and nothing reads it%s", name, hint))
	}
	slices.Sort(told)
	return told
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
