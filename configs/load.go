package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"fewstep/internal/text"

	"go.yaml.in/yaml/v3"
)

// Load reads the recipe at path, or the one of that name that comes with
// fewstep where there is no such file (mini/demo for configs/mini/demo.yaml),
// over the defaults of [Default], applies what the environment says (FEWSTEP_TRAIN_BATCH=8 for train.batch; stages have no
// such names) and then the
// overrides ("train.batch=8", "stages.8.phases.lora-cond.samples=320", see
// [Recipe.Set]) in order, and validates the result. Errors name the file, the
// line and the full key; unknown and repeated keys are errors.
//
// A recipe may begin from another one: "extends: ../scenes/full.yaml", a path
// from the recipe's own folder, stands for that recipe, over which the rest is
// read.
//
// "stages" has three forms, each over the paper's ladder of [Lightning]:
//   - the word lightning: the ladder as it is;
//   - a mapping from stage names to what differs in them;
//   - a list: exactly these stages in this order. An entry is a name or a
//     mapping with a name; what it leaves out is taken from the ladder's stage
//     of that name, or of the name under its key "like".
//
// A stage's "phases" has the last two forms, over the phases of its stage.
func Load(path string, overrides ...string) (*Recipe, error) {
	path = find(path)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("recipe: %w; the recipes that come with fewstep are %s", err, strings.Join(Names(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	c, err := Parse(data, path)
	if err != nil {
		return nil, err
	}
	if err := c.environment(os.LookupEnv); err != nil {
		return nil, err
	}
	for _, o := range overrides {
		if err := c.Set(o); err != nil {
			return nil, err
		}
	}
	c.Train.Calls = c.Train.CallGranularity()
	if err := c.Validate(); err != nil {
		return nil, inFile(path, err)
	}
	return c, nil
}

// inFile puts the file's name before each of the problems joined in err.
func inFile(path string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s: %w", path, err)
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, fmt.Errorf("%s: %w", path, e))
	}
	return errors.Join(all...)
}

// Parse reads a recipe as [Load] does, from memory, without validating it;
// file is its name in errors, and its folder is where [Recipe.Locate] starts.
func Parse(data []byte, file string) (*Recipe, error) {
	c := Default()
	c.file = file
	c.given = map[string]string{}
	if err := c.read(data, file, nil); err != nil {
		return nil, err
	}
	return c, nil
}

// read reads a recipe over c, after the one that it extends; below are the files that led to it.
func (c *Recipe) read(data []byte, file string, below []string) error {
	decoded, err := text.Decode(data)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	root, err := oneDocument(decoded)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if root == nil {
		return fmt.Errorf("%s: the recipe is empty; it needs at least model and data.source", file)
	}
	var head struct {
		Extends yaml.Node `yaml:"extends"`
	}
	_ = root.Decode(&head) // what cannot be read is told below
	if value := follow(&head.Extends); value.Kind != 0 {
		if value.Kind != yaml.ScalarNode || value.Value == "" {
			return fmt.Errorf("%s:%d: extends: %s where the path of a recipe is expected", file, value.Line, describe(value))
		}
		below = append(below, filepath.Clean(file))
		path := value.Value
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
		if slices.Contains(below, filepath.Clean(path)) {
			return fmt.Errorf("%s:%d: extends: %s extends this recipe in turn", file, value.Line, value.Value)
		}
		content, err := readFile(path)
		if err != nil {
			return fmt.Errorf("%s:%d: extends: %w; the path starts at the recipe's folder", file, value.Line, err)
		}
		if err := c.read(content, path, below); err != nil {
			return err
		}
	}
	d := decoder{file: file, given: c.given}
	d.structure(root, "", reflect.ValueOf(c).Elem(), "extends")
	c.retired = append(c.retired, d.retired...)
	return errors.Join(d.problems...)
}

// Set applies one override "key=value". The value is YAML. Stages and phases
// are addressed by name; * stands for all of them (all phases but merges), as
// in "stages.*.phases.*.samples=64".
func (c *Recipe) Set(override string) error { return c.set(override, "--set") }

// set is Set by a layer that Provenance tells of.
func (c *Recipe) set(override, layer string) error {
	key, value, ok := strings.Cut(override, "=")
	if !ok || key == "" {
		return fmt.Errorf("override %q: write it as key=value, for example train.batch=8", override)
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(value), &document); err != nil {
		return fmt.Errorf("override %q: %w", override, err)
	}
	if len(document.Content) == 0 {
		return fmt.Errorf("override %q: the value is missing", override)
	}
	if c.given == nil {
		c.given = map[string]string{}
	}
	d := decoder{file: "override " + key, override: true, layer: layer, given: c.given}
	d.set(strings.Split(key, "."), document.Content[0], c)
	c.retired = append(c.retired, d.retired...)
	return errors.Join(d.problems...)
}
