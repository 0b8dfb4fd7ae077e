package train

import (
	"fmt"
	"time"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/gomlx/compute/dtypes"
)

// progressMeta is the part of a checkpoint that is not tensors.
type progressMeta struct {
	Updates      int64        `json:"updates"`
	Moved        int64        `json:"student_updates"`
	StudentSteps int64        `json:"student_steps"`
	CriticSteps  int64        `json:"discriminator_steps"`
	Gate         distill.Gate `json:"gate"`
}

// due says whether it is time for a checkpoint. When it is taken changes nothing in the result.
func (p *phase) due() bool {
	c := p.Config.Train
	return c.CheckpointMinutes > 0 && time.Since(p.saved).Minutes() >= c.CheckpointMinutes ||
		c.CheckpointSamples > 0 && p.since >= c.CheckpointSamples
}

func (p *phase) point() rundir.Point {
	return rundir.Point{Stage: p.step.StageName, Phase: p.step.PhaseName, Samples: p.done, Position: p.step.First + p.done}
}

// checkpoint saves everything the phase needs to go on, once all updates are known to be finite.
func (p *phase) checkpoint() error {
	if err := p.settle(0); err != nil {
		return err
	}
	start := time.Now()
	files := p.trainedFiles(studentFile, studentState, p.student, p.optS)
	meta := progressMeta{Updates: p.updates, Moved: p.moved, StudentSteps: p.optS.Steps, Gate: p.gate}
	if p.critic != nil {
		files = append(files, p.trainedFiles(discriminatorFile, criticState, p.critic, p.optD)...)
		meta.CriticSteps = p.optD.Steps
	}
	if err := p.Dir.SaveCheckpoint(p.point(), meta, files...); err != nil {
		return err
	}
	p.saved, p.since = time.Now(), 0
	p.unsaved.Store(false)
	p.opt.Log.Debug("checkpoint", "samples", p.done, "took", time.Since(start))
	return nil
}

func (p *phase) trainedFiles(name, stateName string, params *engine.Params, o *engine.Optimizer) []rundir.File {
	return []rundir.File{p.tensorFile(name, trainedSpecs(params), p.download(o)), p.stateFile(stateName, o)}
}

// stateFile is an optimizer's state, in the dtypes in which it is kept.
func (p *phase) stateFile(name string, o *engine.Optimizer) rundir.File {
	specs, value := p.Engine.SaveOptimizer(o)
	return rundir.File{Name: name, WritePath: func(path string) error {
		tensors := make([]weights.Tensor, len(specs))
		for i, s := range specs {
			to := stored(o.Saved(s.Name))
			tensors[i] = weights.Tensor{Name: s.Name, DType: to, Shape: s.Dims, Fill: func() ([]byte, error) {
				v, err := value(s)
				if err == nil {
					err = p.finite(name, s.Name, v)
				}
				if err != nil {
					return nil, err
				}
				return weights.Encode(v, to)
			}}
		}
		return weights.Write(path, tensors, nil)
	}}
}

// savedState gives an optimizer's saved state, which must be of the dtypes in which the recipe keeps it.
func savedState(f *weights.File, path string, o *engine.Optimizer) func(nn.Spec) ([]float32, error) {
	read := pipeline.Reader(f)
	return func(s nn.Spec) ([]float32, error) {
		t, err := f.Tensor(s.Name)
		if err != nil {
			return nil, err
		}
		if want := stored(o.Saved(s.Name)); t.DType != want {
			return nil, fmt.Errorf("%s: tensor %q is %s, and train.moments asks for %s; a phase goes on with the moments that it was begun with: set train.moments back, or use a new run directory",
				path, s.Name, t.DType, want)
		}
		return read(s)
	}
}

// stored is a device's dtype in files.
func stored(d dtypes.DType) weights.DType {
	if d == dtypes.BFloat16 {
		return weights.BF16
	}
	return weights.F32
}

// download gives trained parameters' values, one at a time, from whichever device keeps them.
func (p *phase) download(o *engine.Optimizer) func(nn.Spec) ([]float32, error) {
	return func(s nn.Spec) ([]float32, error) { return p.Engine.Master(o, s.Name) }
}

func trainedSpecs(params *engine.Params) (out []nn.Spec) {
	names := map[string]bool{}
	for _, n := range params.Trained() {
		names[n] = true
	}
	for _, s := range params.Specs {
		if names[s.Name] {
			out = append(out, s)
		}
	}
	return out
}

// tensorFile is a file of f32 tensors that are asked for one by one while it is written. They must be finite.
func (p *phase) tensorFile(name string, specs []nn.Spec, value func(nn.Spec) ([]float32, error)) rundir.File {
	tested := func(s nn.Spec) ([]float32, error) {
		v, err := value(s)
		if err == nil {
			err = p.finite(name, s.Name, v)
		}
		return v, err
	}
	return rundir.File{Name: name, WritePath: func(path string) error {
		return pipeline.WriteFunc(path, specs, tested, weights.F32, nil)
	}}
}

// finite refuses to save a tensor with NaN or infinity: a run would go on from it for ever, and it would take the place of
// older checkpoints that are sound.
func (p *phase) finite(file, tensor string, values []float32) error {
	for _, v := range values {
		if v-v != 0 {
			return &monitor.NonFinite{What: fmt.Sprintf("tensor %q of %s", tensor, file), Value: float64(v), Stage: p.step.StageName, Phase: p.step.PhaseName, Step: p.updates}
		}
	}
	return nil
}

// restore goes on from a checkpoint of this phase, whose weights are in place.
func (p *phase) restore(c *rundir.Checkpoint) error {
	var meta progressMeta
	if err := c.Meta(&meta); err != nil {
		return err
	}
	state := func(file string, o *engine.Optimizer, steps int64) error {
		f, err := weights.Open(c.Path(file))
		if err != nil {
			return err
		}
		defer f.Close()
		return p.Engine.RestoreOptimizer(o, savedState(f, c.Path(file), o), steps)
	}
	if err := state(studentState, p.optS, meta.StudentSteps); err != nil {
		return err
	}
	if p.critic != nil {
		if err := state(criticState, p.optD, meta.CriticSteps); err != nil {
			return err
		}
	}
	p.gate, p.updates, p.moved, p.done = meta.Gate, meta.Updates, meta.Moved, c.Samples
	records, err := monitor.ReadStats(p.Dir.StatsPath())
	if err != nil {
		return err
	}
	for _, rec := range records {
		if p.watch != nil && rec.Stage == p.step.StageName && rec.Phase == p.step.PhaseName {
			p.watch.Update(rec)
		}
	}
	return nil
}

// finish saves the phase's result, once all updates are known to be finite: the averaged weights where EMA is on.
func (p *phase) finish() error {
	if err := p.settle(0); err != nil {
		return err
	}
	student := p.download(p.optS)
	if p.Config.Train.EMA > 0 {
		student = func(s nn.Spec) ([]float32, error) { return p.Engine.Floats(p.optS.Averaged(s.Name)) }
	}
	files := []rundir.File{p.tensorFile(studentFile, trainedSpecs(p.student), student)}
	if p.critic != nil {
		files = append(files, p.tensorFile(discriminatorFile, trainedSpecs(p.critic), p.download(p.optD)))
	}
	if p.handsOn() {
		files = append(files, p.stateFile(criticState, p.optD))
	}
	return p.Dir.SaveResult(p.point(), p.summary(), files...)
}
