package export

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/internal/atomicfile"
	"fewstep/model/bundle"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// Options say how weights are written.
type Options struct {
	DType    weights.DType // of whole models
	LoRA     lora.Blocks   // names of a LoRA's blocks
	LDMNames bool          // UNet files under LDM's names, which ComfyUI loads without a line in its log, not diffusers'
}

// Release writes into a new folder what the published models consist of, for every step count that a run has finished:
//
//	<name>_4step.safetensors       everything in one file, as ComfyUI and A1111 load it
//	<name>_4step_unet.safetensors  the UNet, diffusers' names or LDM's
//	<name>_4step_lora.safetensors  the LoRA, where the stage trained one
//	<name>_4step_scheduler_config.json
//
// with a workflow for ComfyUI beside each weights file, LoRAs first;
// and of a network that predicts x0, <name>_1step_x0.safetensors and <name>_1step_unet_x0.safetensors. Whole models are
// of full weights where a stage trained them, else of its LoRA merged. The folder appears complete or not at all; the
// names of its files come back. told, which may be nil, hears how many bytes of a file are written.
func Release(d *rundir.Dir, c *configs.Recipe, steps []distill.Step, name, out string, opt Options, told func(file string, written, total int64)) ([]string, error) {
	made := map[int][]distill.Step{} // by step count: those with a result, full weights last
	var counts []int
	for _, s := range steps {
		if !s.Final {
			continue
		}
		if _, err := d.Result(s.StageName, s.PhaseName); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		n := s.StudentSteps
		if made[n] == nil {
			counts = append(counts, n)
		}
		if last := len(made[n]) - 1; last >= 0 && IsLoRA(s) && !IsLoRA(made[n][last]) {
			made[n] = append([]distill.Step{s}, made[n]...)
		} else {
			made[n] = append(made[n], s)
		}
	}
	if len(counts) == 0 {
		return nil, errors.New("the run has finished no stage yet")
	}
	base, err := bundle.Open(c.ModelPath(), bundle.Options{})
	if err != nil {
		return nil, err
	}
	defer base.Close()
	basis, err := basisOf(c, base)
	if err != nil {
		return nil, err
	}
	var files []string
	err = atomicfile.WriteDir(out, func(folder string) error {
		w := release{d: d, c: c, folder: folder, opt: opt, told: told, basis: basis}
		for _, n := range counts {
			if err := w.students(name, made[n]); err != nil {
				return err
			}
		}
		files = w.files
		return nil
	})
	for i := range files {
		files[i] = filepath.Join(out, files[i])
	}
	return files, err
}

// release writes a release's files.
type release struct {
	d      *rundir.Dir
	c      *configs.Recipe
	folder string
	opt    Options
	told   func(file string, written, total int64)
	files  []string
	basis  basis
}

// path is the place of a file, which is counted among the release's.
func (w *release) path(file string) string {
	w.files = append(w.files, file)
	return filepath.Join(w.folder, file)
}

// students writes the files of one step count, whose last student makes the whole models.
func (w *release) students(name string, steps []distill.Step) error {
	for _, s := range steps {
		if !IsLoRA(s) {
			continue
		}
		file := fmt.Sprintf("%s_%s", name, Name(s))
		if err := w.lora(file, s); err != nil {
			return err
		}
		if err := w.workflow(file, workflow(w.basis, s, file, false)); err != nil {
			return err
		}
	}
	s := steps[len(steps)-1]
	student, close, err := Student(w.d, w.c, s, w.opt.DType)
	if err != nil {
		return err
	}
	defer close()
	prefix, x0 := fmt.Sprintf("%s_%dstep", name, s.StudentSteps), ""
	if s.Prediction == distill.Sample {
		x0 = "_x0"
	}
	single, unet := prefix+x0+".safetensors", prefix+"_unet"+x0+".safetensors"
	if err := student.WriteSingleFile(w.path(single), w.options(single)); err != nil {
		return err
	}
	named := w.options(unet)
	named.LDMNames = w.opt.LDMNames
	if err := student.WriteUNet(w.path(unet), named); err != nil {
		return err
	}
	scheduler, err := student.File("scheduler/scheduler_config.json")
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(w.path(prefix+"_scheduler_config.json"), scheduler); err != nil {
		return err
	}
	if err := w.workflow(single, checkpointWorkflow(w.basis, s, single)); err != nil {
		return err
	}
	return w.workflow(unet, workflow(w.basis, asFull(s), unet, w.opt.LDMNames))
}

// asFull is a step as the whole network that it makes: a LoRA merged.
func asFull(s distill.Step) distill.Step {
	s.Target = configs.TargetFull
	return s
}

// workflow writes a weights file's workflow beside it.
func (w *release) workflow(file string, content []byte) error {
	return atomicfile.WriteBytes(w.path(strings.TrimSuffix(file, ".safetensors")+"_comfyui.json"), content)
}

func (w *release) options(file string) bundle.WriteOptions {
	if w.told == nil {
		return bundle.WriteOptions{}
	}
	return bundle.WriteOptions{Progress: func(written, total int64) { w.told(file, written, total) }}
}

func (w *release) lora(file string, s distill.Step) error {
	result, err := w.d.Result(s.StageName, s.PhaseName)
	if err != nil {
		return err
	}
	f, err := weights.Open(result.Path(ResultFile))
	if err != nil {
		return err
	}
	defer f.Close()
	tensors, err := tensorsOf(f, w.c, s, w.opt.LoRA, w.opt.DType)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	metadata, err := metadataOf(w.d, w.c, s)
	if err != nil {
		return err
	}
	return weights.Save(w.path(file), tensors, weights.Options{Metadata: metadata, Hash: true, Finite: true})
}
