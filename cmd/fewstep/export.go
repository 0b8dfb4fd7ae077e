package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/lora"
	"fewstep/model/process"
	"fewstep/model/weights"
	"fewstep/train/export"
	"fewstep/train/rundir"
)

func init() { register(newExport) }

type exportOptions struct {
	run, out, model, dtype, release string
	steps                           int
	lora, full                      bool
	loraNames, unetNames            string
}

func newExport(a *app) *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export RUN",
		Short: "Write what a run has made: LoRA and UNet files, or a whole model.",
		Long: "Writes what a run has made: LoRA and UNet files, or a whole model.\n\n" +
			"Without --steps, the run's exports folder is completed: a LoRA, a UNet, scheduler settings and a ComfyUI workflow\n" +
			"for every step count whose phase is finished. With --steps and --out, a whole model with that student as its UNet\n" +
			"is written, a LoRA merged: a single file where OUT ends in .safetensors, else a diffusers directory.\n" +
			"With --release, OUT becomes a folder with what published models consist of, for every step count: NAME_4step, the\n" +
			"whole model in one file, NAME_4step_unet and NAME_4step_lora, scheduler settings and ComfyUI workflows.",
		Example: "  fewstep export runs/demo\n  fewstep export runs/demo --steps 8 --out models/mini-8step --lora --dtype bf16\n" +
			"  fewstep export runs/demo --steps 4 --out mini_4step.safetensors\n" +
			"  fewstep export runs/demo --release mini_lightning --out release",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.run = args[0]
			return a.export(o)
		},
	}
	f := c.Flags()
	f.IntVarP(&o.steps, "steps", "n", 0, "step count of the student to write as a whole model")
	f.StringVarP(&o.out, "out", "o", "", "the diffusers directory or single file to make")
	f.StringVar(&o.release, "release", "", "write all files of a release, whose names begin so")
	f.BoolVar(&o.lora, "lora", false, "the stage's LoRA, merged into the base model")
	f.BoolVar(&o.full, "full", false, "the stage's fully trained UNet (the default where there is one)")
	f.StringVar(&o.dtype, "dtype", "fp16", "element type of the model's UNet: fp16, bf16 or f32")
	f.StringVar(&o.loraNames, "lora-names", string(lora.SGM), loraNamesUsage)
	f.StringVar(&o.unetNames, "unet-names", "diffusers", "how a release's UNet files are named: diffusers, for diffusers and ComfyUI, which logs 20 harmless lines about them, or ldm, for ComfyUI, which logs none")
	f.StringVar(&o.model, "model", "", "the base model, where it has moved since the run")
	return c
}

var exportTypes = map[string]weights.DType{"fp16": weights.F16, "bf16": weights.BF16, "f32": weights.F32}

func (a *app) export(o exportOptions) error {
	to, ok := exportTypes[o.dtype]
	switch {
	case !ok:
		return withHint(usageErrorf("unknown element type %q", o.dtype), "choose fp16, bf16 or f32")
	case o.lora && o.full:
		return usageErrorf("--lora and --full exclude each other")
	case o.release != "" && (o.steps > 0 || o.lora || o.full || o.out == ""):
		return usageErrorf("--release takes --out, and neither --steps, --lora nor --full")
	case o.release == "" && (o.steps > 0) != (o.out != ""):
		return withHint(usageErrorf("a whole model needs both --steps and --out"), "leave both out to complete the run's exports folder")
	}
	blocks, err := lora.ParseBlocks(o.loraNames)
	if err != nil {
		return usageErrorf("--lora-names: %v", err)
	}
	if o.unetNames != "diffusers" && o.unetNames != "ldm" {
		return withHint(usageErrorf("unknown names %q of a UNet file", o.unetNames), "choose diffusers or ldm for --unet-names")
	}
	d, c, steps, err := openRun(o.run, o.model)
	if err != nil {
		return err
	}
	if published, err := export.Published(c); err != nil {
		return err
	} else if !published {
		a.log.Info("the base is not of a published model's size, the only ones that ComfyUI and A1111 know: these files are for fewstep and diffusers")
	}
	if o.release != "" {
		return a.exportRelease(d, c, steps, o, export.Options{DType: to, LoRA: blocks, LDMNames: o.unetNames == "ldm"})
	}
	if o.out == "" {
		return a.exportMissing(d, c, steps, blocks)
	}
	s, err := chooseStep(d, steps, o)
	if err != nil {
		return err
	}
	return a.exportStudent(d, c, s, o.out, to)
}

func (a *app) exportRelease(d *rundir.Dir, c *configs.Recipe, steps []distill.Step, o exportOptions, opt export.Options) error {
	shown, progress := "", a.byteProgress("")
	files, err := export.Release(d, c, steps, o.release, o.out, opt, func(file string, written, total int64) {
		if file != shown {
			progress.Close()
			shown, progress = file, a.byteProgress(file)
		}
		progress.update(written, total)
	})
	progress.Close()
	if err != nil {
		return err
	}
	for _, file := range files {
		fmt.Fprintln(a.stdout, file)
	}
	return nil
}

func (a *app) exportStudent(d *rundir.Dir, c *configs.Recipe, s distill.Step, out string, to weights.DType) error {
	student, close, err := export.Student(d, c, s, to)
	if err != nil {
		return err
	}
	defer close()
	progress := a.byteProgress("export")
	defer progress.Close()
	write := student.WriteDirectory
	if filepath.Ext(out) == ".safetensors" {
		write = student.WriteSingleFile
	}
	if err := write(out, bundle.WriteOptions{Progress: progress.update}); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, out)
	return nil
}

// openRun opens a run directory for reading, with its recipe and the ladder. model, if not empty, is where the base
// model lies now.
func openRun(dir, model string) (*rundir.Dir, *configs.Recipe, []distill.Step, error) {
	d, err := rundir.View(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	resolved, err := d.Config()
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := configs.Parse(resolved, d.Path("config.yaml"))
	if err != nil {
		return nil, nil, nil, err
	}
	if model != "" {
		if c.Model, err = filepath.Abs(model); err != nil {
			return nil, nil, nil, err
		}
	}
	base, err := bundle.Open(c.ModelPath(), bundle.Options{})
	if err != nil {
		return nil, nil, nil, withHint(fmt.Errorf("the base model is not there: %w", err), "name it with --model")
	}
	defer base.Close()
	kind, _, err := base.Prediction()
	if err != nil {
		return nil, nil, nil, err
	}
	predicts, err := process.ParsePrediction(kind.Target)
	if err != nil {
		return nil, nil, nil, err
	}
	steps, err := distill.Plan(c, predicts)
	return d, c, steps, err
}

func (a *app) exportMissing(d *rundir.Dir, c *configs.Recipe, steps []distill.Step, blocks lora.Blocks) error {
	owed, err := export.Missing(d, steps)
	if err != nil {
		return err
	}
	for _, s := range owed {
		if err := export.ArtifactNamed(d, c, s, blocks); err != nil {
			return err
		}
	}
	names, err := d.Artifacts(rundir.Exports)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return withHint(errors.New("the run has finished no stage yet"), "'fewstep run' continues it")
	}
	for _, name := range names {
		fmt.Fprintln(a.stdout, d.ArtifactPath(rundir.Exports, name))
	}
	return nil
}

// chooseStep finds the finished phase that made the wanted student: full weights where there are any, unless asked
// for the LoRA.
func chooseStep(d *rundir.Dir, steps []distill.Step, o exportOptions) (distill.Step, error) {
	var have []string
	var found *distill.Step
	for i := range steps {
		s := &steps[i]
		if !s.Final {
			continue
		}
		if _, err := d.Result(s.StageName, s.PhaseName); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return distill.Step{}, err
		}
		kind := "full"
		if export.IsLoRA(*s) {
			kind = "lora"
		}
		have = append(have, fmt.Sprintf("--steps %d --%s", s.StudentSteps, kind))
		if s.StudentSteps != o.steps || o.lora && kind != "lora" || o.full && kind != "full" {
			continue
		}
		if found == nil || kind == "full" || export.IsLoRA(*found) {
			found = s
		}
	}
	if found == nil {
		if len(have) == 0 {
			have = []string{"nothing yet"}
		}
		return distill.Step{}, withHint(fmt.Errorf("the run has no such student of %d steps", o.steps), "it has %s", strings.Join(slices.Compact(have), ", "))
	}
	return *found, nil
}
