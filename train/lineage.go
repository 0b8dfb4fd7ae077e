package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// components are the folders of a base model, of any kind, whose weights a run depends on.
var components = []string{"unet", "vae", "text_encoder", "text_encoder_2"}

// lineage is what the run is made from.
func (r *Run) lineage(ctx context.Context) (rundir.Lineage, error) {
	l := rundir.Lineage{FewstepVersion: r.opt.Version, Extra: map[string]string{}, Machine: r.opt.Machine}
	for _, component := range append([]string{"unet", "vae"}, r.Pipeline.Kind.Text...) {
		files := []string{r.Pipeline.Dir} // a single file holds all
		if info, err := os.Stat(r.Pipeline.Dir); err != nil {
			return l, err
		} else if info.IsDir() {
			if files, err = weights.ModelFiles(r.Pipeline.Dir + "/" + component); err != nil {
				return l, err
			}
		} else if component != "unet" {
			continue
		}
		sort.Strings(files)
		for i, f := range files {
			h, err := weights.HashFile(ctx, f)
			if err != nil {
				return l, err
			}
			if component == "unet" && i == 0 {
				l.BaseWeights = h
			} else {
				l.Extra[fmt.Sprintf("%s_%d_sha256", component, i)] = h
			}
		}
	}
	var err error
	if l.Inputs, err = modelInputs(ctx, r.Pipeline.Dir); err != nil {
		return l, err
	}
	l.DataManifest, err = r.Data.Digest()
	return l, err
}

// modelInputs are the digests of what a model directory holds besides the weights that a run depends on: every
// configuration, the tokenizers, and the network that the run's report measures with. A single file has none.
func modelInputs(ctx context.Context, dir string) (map[string]string, error) {
	out := map[string]string{}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return out, err
	}
	add := func(name string) error {
		sum, err := weights.HashFile(ctx, filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		out[name] = sum
		return err
	}
	if err := add("model_index.json"); err != nil {
		return nil, err
	}
	for _, folder := range append([]string{"scheduler", "tokenizer", "tokenizer_2", "clip"}, components...) {
		entries, err := os.ReadDir(filepath.Join(dir, folder))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); ext == ".json" || ext == ".txt" || folder == "clip" && ext == ".safetensors" {
				if err := add(path.Join(folder, e.Name())); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// rules say how the recipe may differ from the one that a run directory was made with: in keys that change no result, and in
// stages and phases for which nothing has been done yet.
func (r *Run) rules() rundir.Rules {
	return rundir.Rules{
		MayDiffer: configs.MayDiffer(configs.Always),
		MayChange: r.mayChange,
		Normal: func(old []byte) []byte {
			c, err := configs.Parse(old, r.opt.Dir)
			if err != nil {
				return old
			}
			c.Train.Calls = c.Train.CallGranularity()
			return c.Resolved()
		},
	}
}

// mayChange says whether a key like stages.8.phases.lora-cond.lr is of a phase without a result, and nothing was made after
// it. Of a phase that has checkpoints the keys that are configs.Rate may change.
func (r *Run) mayChange(d *rundir.Dir, key string) (bool, error) {
	parts := strings.Split(key, ".")
	if parts[0] != "stages" || len(parts) < 3 {
		return false, nil
	}
	steps := r.Ladder.Steps()
	first := slices.IndexFunc(steps, func(s distill.Step) bool { return s.StageName == parts[1] })
	rate := false
	if len(parts) > 4 && parts[2] == "phases" {
		first = slices.IndexFunc(steps, func(s distill.Step) bool { return s.StageName == parts[1] && s.PhaseName == parts[3] })
		rate = slices.Contains(configs.MayDiffer(configs.Rate), parts[4])
	}
	if first < 0 {
		return false, nil
	}
	for i, s := range steps[first:] {
		result, checkpoint, err := d.Begun(rundir.Phase{Stage: s.StageName, Name: s.PhaseName})
		if err != nil || result || checkpoint && !(rate && i == 0) {
			return false, err
		}
	}
	return true, nil
}
