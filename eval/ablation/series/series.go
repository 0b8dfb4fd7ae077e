// Package series trains the runs of an ablation within a given time, several side by side, as processes of their own, and goes
// on with what is left in the next call.
//
// Runs come in order of importance. A row begins with what the main recipe's run of the same seed has made before the two
// differ, as soon as that is there. A run that fails costs the others nothing: it is tried again when nothing else is left to
// begin.
package series

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fewstep/configs"
	"fewstep/distill"

	"go.yaml.in/yaml/v3"
)

// Series is a list of runs, most important first.
type Series struct {
	Main   string   // path of the main recipe
	Accept []string // keys, as key=value, that the acceptance test changes in it
	Runs   []*Run   // most important first
}

// Run is one recipe with one seed.
type Run struct {
	Name   string // of its folder: the recipe's file and the seed, "mse-only-1"
	Recipe string // path
	Seed   uint64
	Config *configs.Recipe

	Parent *Run   // the run of the main recipe whose first phases it begins with; nil = it trains all of them
	Shared int    // how many these are
	From   string // the first phase that it trains itself
}

// file is the form of a list:
//
//	main: ../../configs/scenes/full.yaml
//	rows: ../../configs/ablation
//	accept: [eval.samples=8192]
//	runs:
//	  - {recipe: main, seed: 1}
//	  - {recipe: mse-only, seed: 1}
//
// recipe is main, or the name of a file in the folder rows, without its ending. Paths are relative to the list. accept are keys
// that are changed for the acceptance test alone.
type file struct {
	Main string `yaml:"main"`
	Rows string `yaml:"rows"`

	Accept []string `yaml:"accept"`
	Runs   []struct {
		Recipe string `yaml:"recipe"`
		Seed   uint64 `yaml:"seed"`
	} `yaml:"runs"`
}

// Read reads a list of runs and their recipes; set are keys, as key=value, that are changed in every recipe.
func Read(path string, set []string) (*Series, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f file
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if f.Main == "" || len(f.Runs) == 0 {
		return nil, fmt.Errorf("%s: it must name the main recipe, and runs", path)
	}
	s := &Series{Main: filepath.Join(filepath.Dir(path), f.Main), Accept: f.Accept}
	if _, err := configs.Load(s.Main, s.accept(set)...); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i, r := range f.Runs {
		run, err := s.read(filepath.Join(filepath.Dir(path), f.Rows), r.Recipe, r.Seed, set)
		if err != nil {
			return nil, fmt.Errorf("%s: run %d: %w", path, i+1, err)
		}
		if slices.ContainsFunc(s.Runs, func(o *Run) bool { return o.Name == run.Name }) {
			return nil, fmt.Errorf("%s: run %d: %s is there already", path, i+1, run.Name)
		}
		s.Runs = append(s.Runs, run)
	}
	for _, r := range s.Runs {
		if err := s.descend(r); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", path, r.Name, err)
		}
	}
	return s, nil
}

func (s *Series) read(folder, recipe string, seed uint64, set []string) (*Run, error) {
	if recipe == "" || seed == 0 {
		return nil, errors.New("a run has a recipe, and a seed of 1 or more")
	}
	r := &Run{Recipe: filepath.Join(folder, recipe+".yaml"), Seed: seed}
	if recipe == "main" {
		r.Recipe = s.Main
	}
	r.Name = strings.TrimSuffix(filepath.Base(r.Recipe), filepath.Ext(r.Recipe)) + "-" + strconv.FormatUint(seed, 10)
	var err error
	r.Config, err = configs.Load(r.Recipe, r.Set(set)...)
	return r, err
}

// accept is what the main recipe is changed by for the acceptance test: what is set for all runs has the last word.
func (s *Series) accept(all []string) []string { return append(slices.Clone(s.Accept), all...) }

// Set is what a run's recipe is changed by: its seed after the keys of all runs.
func (r *Run) Set(all []string) []string {
	return append(slices.Clone(all), "seed="+strconv.FormatUint(r.Seed, 10))
}

// descend finds what a run may begin with.
func (s *Series) descend(r *Run) error {
	steps, err := distill.Plan(r.Config, distill.Epsilon)
	if err != nil {
		return err
	}
	if r.Recipe != s.Main {
		for _, p := range s.Runs {
			if p.Recipe != s.Main || p.Seed != r.Seed {
				continue
			}
			if r.Shared, err = distill.Shared(p.Config, r.Config); err != nil {
				return err
			}
			if r.Shared > 0 {
				r.Parent = p
			}
		}
	}
	r.From = steps[r.Shared].Path()
	return nil
}
