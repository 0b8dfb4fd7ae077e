package train

import (
	"errors"
	"strings"
	"time"

	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

// progressMeta is the part of a checkpoint that is not tensors.
type progressMeta struct {
	Updates      int64        `json:"updates"`
	Moved        int64        `json:"student_updates"`
	StudentSteps int64        `json:"student_steps"`
	CriticSteps  int64        `json:"discriminator_steps"`
	Gate         distill.Gate `json:"gate"`
}

// steps are those of a role's optimizer.
func (m *progressMeta) steps(role method.Role) *int64 {
	if role == method.Discriminator {
		return &m.CriticSteps
	}
	return &m.StudentSteps
}

// due says whether it is time for a checkpoint. When it is taken changes nothing in the result.
func (p *phase) due() bool {
	c := p.Config.Train
	return p.member == nil && p.overdue() || c.CheckpointSamples > 0 && p.since >= c.CheckpointSamples
}

// overdue says so by the clock, by which several ranks do not know it at the same update.
func (p *phase) overdue() bool {
	c := p.Config.Train
	return c.CheckpointMinutes > 0 && time.Since(p.saved).Minutes() >= c.CheckpointMinutes
}

func (p *phase) point() rundir.Point { return pointOf(p.s.Step, p.s.Done) }

func pointOf(step distill.Step, done int64) rundir.Point {
	return rundir.Point{Stage: step.StageName, Phase: step.PhaseName, Samples: done, Position: step.First + done}
}

// checkpoint saves everything the phase needs to go on, once all updates are known to be finite.
func (p *phase) checkpoint() error {
	if err := p.settle(0); err != nil {
		return err
	}
	start := time.Now()
	meta := progressMeta{Updates: p.updates, Moved: p.moved, Gate: p.s.Gate}
	var files []rundir.File
	for _, role := range p.s.Trained() {
		files = append(files, p.trainedFiles(role)...)
		*meta.steps(role) = p.s.Optimizer(role).Steps
	}
	var err error
	if m := p.member; m != nil {
		err = p.Dir.SaveShards(m.Context(), m, p.point(), meta, files...)
	} else {
		err = p.Dir.SaveCheckpoint(p.point(), meta, files...)
	}
	if err != nil {
		return err
	}
	p.saved, p.since = time.Now(), 0
	p.unsaved.Store(false)
	p.log.Debug("checkpoint", "samples", p.s.Done, "took", time.Since(start))
	return nil
}

// trainedFiles are what this process writes of a role's network and of its optimizer.
func (p *phase) trainedFiles(role method.Role) []rundir.File {
	o := p.s.Optimizer(role)
	name, specs := p.part(weightsFile(role), trainedSpecs(p.s.Params(role)), o, func(s nn.Spec) string { return s.Name })
	state, value := p.s.Engine.SaveOptimizer(o)
	stateName, state := p.part(stateFile(role), state, o, func(s nn.Spec) string {
		_, parameter, _ := strings.Cut(s.Name, ".")
		return parameter
	})
	return []rundir.File{tensorFile(name, specs, p.download(o), p.finite(name)), optimizerFile(stateName, o, state, value, p.finite(stateName))}
}

// finite refuses to save what is not, in a file, and tells the other ranks of each tensor.
func (p *phase) finite(file string) func(tensor string, values []float32) error {
	check := finite(file, p.s.Step, p.updates)
	return func(tensor string, values []float32) error {
		p.Working("saving " + file)
		return check(tensor, values)
	}
}

// download gives trained parameters' values, one at a time, from whichever device keeps them.
func (w *worker) download(o *engine.Optimizer) func(nn.Spec) ([]float32, error) {
	return func(s nn.Spec) ([]float32, error) { return w.s.Engine.Master(o, s.Name) }
}

// restoreOptimizers puts the state of a checkpoint of this phase back, whose weights are in place.
func (w *worker) restoreOptimizers(c *rundir.Checkpoint) error {
	var meta progressMeta
	if err := c.Meta(&meta); err != nil {
		return err
	}
	for _, role := range w.s.Trained() {
		o, file := w.s.Optimizer(role), stateFile(role)
		f, err := openSaved(c, file)
		if err != nil {
			return err
		}
		err = w.s.Engine.RestoreOptimizer(o, savedState(f, c.Path(file), o), *meta.steps(role))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// restore goes on where a checkpoint was made; its tensors are in place.
func (p *phase) restore(c *rundir.Checkpoint) error {
	var meta progressMeta
	if err := c.Meta(&meta); err != nil {
		return err
	}
	p.s.Gate, p.updates, p.moved, p.s.Done = meta.Gate, meta.Updates, meta.Moved, c.Samples
	return nil
}

// watchAgain shows the watcher what it has seen of the phase.
func (p *phase) watchAgain() error {
	records, err := monitor.ReadStats(p.Dir.StatsPath())
	if err != nil {
		return err
	}
	for _, rec := range records {
		if p.watch != nil && rec.Stage == p.s.Step.StageName && rec.Phase == p.s.Step.PhaseName {
			p.watch.Update(rec)
		}
	}
	return nil
}

// finish saves the phase's result, once all updates are known to be finite: the averaged weights where EMA is on. Rank 0
// does, from what its devices hold; where state is dealt out over several processes, from a checkpoint that all of them save.
// The others have something to lose until the result is there.
func (p *phase) finish() error {
	if err := p.settle(0); err != nil {
		return err
	}
	var from *rundir.Checkpoint
	if p.s.Engine.Shard && p.nodes() > 1 {
		err := p.checkpoint()
		if err != nil {
			return err
		}
		if from, err = p.Dir.Checkpoint(p.point()); err != nil {
			return err
		}
	}
	if p.leads() {
		if err := p.saveResult(from); err != nil {
			return err
		}
	}
	if err := p.hear("the phase's result", nil); err != nil {
		return err
	}
	p.unsaved.Store(false)
	return nil
}

// saveResult writes the phase's result, from the devices or from a checkpoint.
func (p *phase) saveResult(from *rundir.Checkpoint) error {
	var files []rundir.File
	for _, role := range p.s.Trained() {
		made, err := p.learnt(from, role)
		if err != nil {
			return err
		}
		defer made.close()
		value, name := made.parameter, weightsFile(role)
		if p.Config.Train.EMA > 0 && role == method.Student {
			value = func(s nn.Spec) ([]float32, error) { return made.state(nn.Spec{Name: "ema." + s.Name, Dims: s.Dims}) }
		}
		files = append(files, tensorFile(name, trainedSpecs(p.s.Params(role)), value, p.finite(name)))
		if role == method.Discriminator && p.handsOn() {
			name := stateFile(role)
			files = append(files, optimizerFile(name, p.s.Optimizer(role), made.specs, made.state, p.finite(name)))
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
func (p *phase) learnt(from *rundir.Checkpoint, role method.Role) (learnt, error) {
	if from == nil {
		o := p.s.Optimizer(role)
		specs, state := p.s.Engine.SaveOptimizer(o)
		return learnt{p.download(o), state, specs, func() {}}, nil
	}
	parameters, err := openSaved(from, weightsFile(role))
	if err != nil {
		return learnt{}, err
	}
	state, err := openSaved(from, stateFile(role))
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
