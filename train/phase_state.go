package train

import (
	"errors"
	"fmt"
	"strings"
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
	return p.opt.Cluster == nil && p.overdue() || c.CheckpointSamples > 0 && p.since >= c.CheckpointSamples
}

// overdue says so by the clock, by which several ranks do not know it at the same update.
func (p *phase) overdue() bool {
	c := p.Config.Train
	return c.CheckpointMinutes > 0 && time.Since(p.saved).Minutes() >= c.CheckpointMinutes
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
	var err error
	if m := p.opt.Cluster; m != nil {
		err = p.Dir.SaveShards(m.Context(), m, p.point(), meta, files...)
	} else {
		err = p.Dir.SaveCheckpoint(p.point(), meta, files...)
	}
	if err != nil {
		return err
	}
	p.saved, p.since = time.Now(), 0
	p.unsaved.Store(false)
	p.opt.Log.Debug("checkpoint", "samples", p.done, "took", time.Since(start))
	return nil
}

func (p *phase) trainedFiles(name, stateName string, params *engine.Params, o *engine.Optimizer) []rundir.File {
	name, specs := p.part(name, trainedSpecs(params), o, func(s nn.Spec) string { return s.Name })
	state, value := p.Engine.SaveOptimizer(o)
	stateName, state = p.part(stateName, state, o, func(s nn.Spec) string {
		_, parameter, _ := strings.Cut(s.Name, ".")
		return parameter
	})
	return []rundir.File{p.tensorFile(name, specs, p.download(o)), p.stateFile(stateName, o, state, value)}
}

// stateFile is tensors of an optimizer's state, in the dtypes in which it is kept.
func (p *phase) stateFile(name string, o *engine.Optimizer, specs []nn.Spec, value func(nn.Spec) ([]float32, error)) rundir.File {
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
func savedState(f weights.Source, path string, o *engine.Optimizer) func(nn.Spec) ([]float32, error) {
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
		f, err := openSaved(c, file)
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

// finish saves the phase's result, once all updates are known to be finite: the averaged weights where EMA is on. Rank 0
// does, from what its devices hold; where state is dealt out over several processes, from a checkpoint that all of them save.
func (p *phase) finish() (err error) {
	if err := p.settle(0); err != nil {
		return err
	}
	var from *rundir.Checkpoint
	if p.Engine.Shard && p.nodes() > 1 {
		if err := p.checkpoint(); err != nil {
			return err
		}
		if from, err = p.Dir.Checkpoint(p.point()); err != nil {
			return err
		}
	}
	if !p.leads() {
		return nil
	}
	student, err := p.learnt(from, studentFile, studentState, p.optS)
	if err != nil {
		return err
	}
	defer student.close()
	value := student.parameter
	if p.Config.Train.EMA > 0 {
		value = func(s nn.Spec) ([]float32, error) { return student.state(nn.Spec{Name: "ema." + s.Name, Dims: s.Dims}) }
	}
	files := []rundir.File{p.tensorFile(studentFile, trainedSpecs(p.student), value)}
	if p.critic != nil {
		critic, err := p.learnt(from, discriminatorFile, criticState, p.optD)
		if err != nil {
			return err
		}
		defer critic.close()
		files = append(files, p.tensorFile(discriminatorFile, trainedSpecs(p.critic), critic.parameter))
		if p.handsOn() {
			files = append(files, p.stateFile(criticState, p.optD, critic.specs, critic.state))
		}
	}
	return p.Dir.SaveResult(p.point(), p.summary(), files...)
}

// learnt is what training made of a network: its parameters, and the tensors of its optimizer's state, one at a time.
type learnt struct {
	parameter, state func(nn.Spec) ([]float32, error)
	specs            []nn.Spec // of the state
	close            func()
}

// learnt takes a network from this process's devices, or from files of a checkpoint.
func (p *phase) learnt(from *rundir.Checkpoint, file, stateFile string, o *engine.Optimizer) (learnt, error) {
	if from == nil {
		specs, state := p.Engine.SaveOptimizer(o)
		return learnt{p.download(o), state, specs, func() {}}, nil
	}
	parameters, err := openSaved(from, file)
	if err != nil {
		return learnt{}, err
	}
	state, err := openSaved(from, stateFile)
	if err != nil {
		return learnt{}, errors.Join(err, parameters.Close())
	}
	l := learnt{parameter: pipeline.Reader(parameters), state: pipeline.Reader(state), close: func() { parameters.Close(); state.Close() }}
	for _, name := range state.Names() {
		t, err := state.Tensor(name)
		if err != nil {
			l.close()
			return learnt{}, err
		}
		l.specs = append(l.specs, nn.Spec{Name: name, Dims: t.Shape})
	}
	return l, nil
}
