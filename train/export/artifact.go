// Package export turns the results of finished phases into the files other programs load: LoRA files with kohya's
// names, UNet state dicts with diffusers' names, the scheduler settings and a ComfyUI workflow beside them, and whole
// diffusers directories.
//
// A file depends on the phase's result, the recipe and the base model alone, never on the clock: a run that was
// killed and continued exports the same bytes.
package export

import (
	"fmt"
	"slices"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/model/bundle"
	"fewstep/model/lora"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// ResultFile is the file of a phase's result that holds the student, in f32: all UNet tensors under diffusers'
// names, or after a LoRA phase the adapters alone, "<weight>.lora_down" and "<weight>.lora_up".
const ResultFile = "student.safetensors"

// IsLoRA says whether a step produces adapters rather than full weights.
func IsLoRA(s distill.Step) bool {
	return s.Kind != configs.KindMerge && s.Target == configs.TargetLoRA
}

// Name is the weights file of what a step produces: "8step_lora.safetensors", "8step_unet.safetensors" or, where it
// predicts x0, "1step_unet_x0.safetensors".
func Name(s distill.Step) string {
	switch {
	case IsLoRA(s):
		return fmt.Sprintf("%dstep_lora.safetensors", s.StudentSteps)
	case s.Prediction == distill.Sample:
		return fmt.Sprintf("%dstep_unet_x0.safetensors", s.StudentSteps)
	}
	return fmt.Sprintf("%dstep_unet.safetensors", s.StudentSteps)
}

// Artifact writes the result of one finished phase below the run's exports folder, in fp16: the weights file of
// [Name], "<N>step_scheduler_config.json" and a workflow for ComfyUI. Of the phases that make the same file the last
// stays; calling it for [distill.Step.Final] steps alone writes each file once.
//
// Errors: fs.ErrNotExist where the phase has no result yet, *rundir.Damaged where it was changed; a weight beyond
// fp16's range is named.
func Artifact(d *rundir.Dir, c *configs.Recipe, s distill.Step) error {
	return ArtifactNamed(d, c, s, lora.SGM)
}

// ArtifactNamed is Artifact with the names of a LoRA's blocks.
func ArtifactNamed(d *rundir.Dir, c *configs.Recipe, s distill.Step, blocks lora.Blocks) error {
	result, err := d.Result(s.StageName, s.PhaseName)
	if err != nil {
		return err
	}
	f, err := weights.Open(result.Path(ResultFile))
	if err != nil {
		return err
	}
	defer f.Close()
	tensors, err := tensorsOf(f, c, s, blocks, weights.F16)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path(), err)
	}
	metadata, err := metadataOf(d, c, s)
	if err != nil {
		return err
	}
	name := Name(s)
	files := []rundir.File{{Name: name, WritePath: func(path string) error {
		return weights.Save(path, tensors, weights.Options{Metadata: metadata, Hash: true, Finite: true})
	}}}
	base, err := bundle.Open(c.ModelPath(), bundle.Options{})
	if err != nil {
		return err
	}
	defer base.Close()
	scheduler, err := schedulerConfig(base, s)
	if err != nil {
		return err
	}
	b, err := basisOf(c, base)
	if err != nil {
		return err
	}
	files = append(files,
		rundir.Bytes(schedulerName(s), scheduler),
		rundir.Bytes(workflowName(s), workflow(b, s, name, false)))
	for _, file := range files {
		if err := d.SaveArtifact(rundir.Exports, file); err != nil {
			return err
		}
	}
	return nil
}

// schedulerName is the scheduler's settings beside a weights file.
func schedulerName(s distill.Step) string {
	return fmt.Sprintf("%dstep_scheduler_config.json", s.StudentSteps)
}

// Missing lists the final steps of a ladder of which a file is not in the run's exports folder, or not as it was saved,
// although their phase has a result: what a killed run still owes, or a user has deleted, or a disk has damaged.
func Missing(d *rundir.Dir, steps []distill.Step) (owed []distill.Step, err error) {
	have, err := d.Artifacts(rundir.Exports)
	if err != nil {
		return nil, err
	}
	for _, s := range steps {
		if !s.Final || !slices.ContainsFunc([]string{Name(s), schedulerName(s), workflowName(s)}, func(name string) bool { return !slices.Contains(have, name) }) {
			continue
		}
		result, _, err := d.Begun(rundir.Phase{Stage: s.StageName, Name: s.PhaseName})
		if err != nil {
			return nil, err
		}
		if result {
			owed = append(owed, s)
		}
	}
	return owed, nil
}
