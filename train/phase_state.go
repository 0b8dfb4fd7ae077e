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
)

// progressMeta is the part of a checkpoint that is not tensors.
type progressMeta struct {
	Updates      int64        `json:"updates"`
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

// checkpoint saves everything the phase needs to go on.
func (p *phase) checkpoint() error {
	start := time.Now()
	files, err := p.trainedFiles(studentFile, studentState, p.student, p.optS)
	if err != nil {
		return err
	}
	meta := progressMeta{Updates: p.updates, StudentSteps: p.optS.Steps, Gate: p.gate}
	if p.critic != nil {
		more, err := p.trainedFiles(discriminatorFile, criticState, p.critic, p.optD)
		if err != nil {
			return err
		}
		files = append(files, more...)
		meta.CriticSteps = p.optD.Steps
	}
	if err := p.Dir.SaveCheckpoint(p.point(), meta, files...); err != nil {
		return err
	}
	p.saved, p.since = time.Now(), 0
	p.opt.Log.Debug("checkpoint", "samples", p.done, "took", time.Since(start))
	return nil
}

func (p *phase) trainedFiles(name, stateName string, params *engine.Params, o *engine.Optimizer) ([]rundir.File, error) {
	specs := trainedSpecs(params)
	values, err := p.Engine.Download(params, params.Trained())
	if err != nil {
		return nil, err
	}
	stateSpecs, state, err := p.Engine.SaveOptimizer(o)
	if err != nil {
		return nil, err
	}
	return []rundir.File{tensorFile(name, specs, values), tensorFile(stateName, stateSpecs, state)}, nil
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

func tensorFile(name string, specs []nn.Spec, values engine.Tensors) rundir.File {
	return rundir.File{Name: name, WritePath: func(path string) error {
		return pipeline.WriteFile(path, specs, values, weights.F32, nil)
	}}
}

// restore goes on from a checkpoint of this phase.
func (p *phase) restore(c *rundir.Checkpoint) error {
	var meta progressMeta
	if err := c.Meta(&meta); err != nil {
		return err
	}
	load := func(file, stateFile string, params *engine.Params, o *engine.Optimizer, steps int64) error {
		values, err := readTensors(c.Path(file))
		if err != nil {
			return err
		}
		if err := p.Engine.Replace(params, values); err != nil {
			return fmt.Errorf("%s: %w", c.Path(file), err)
		}
		state, err := readTensors(c.Path(stateFile))
		if err != nil {
			return err
		}
		return p.Engine.RestoreOptimizer(o, state, steps)
	}
	if err := load(studentFile, studentState, p.student, p.optS, meta.StudentSteps); err != nil {
		return err
	}
	if p.critic != nil {
		if err := load(discriminatorFile, criticState, p.critic, p.optD, meta.CriticSteps); err != nil {
			return err
		}
	}
	p.gate, p.updates, p.done = meta.Gate, meta.Updates, c.Samples
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

// finish saves the phase's result: the averaged weights where EMA is on.
func (p *phase) finish() error {
	var values engine.Tensors
	var err error
	if p.Config.Train.EMA > 0 {
		values, err = p.Engine.Average(p.optS)
	} else {
		values, err = p.Engine.Download(p.student, p.student.Trained())
	}
	if err != nil {
		return err
	}
	files := []rundir.File{tensorFile(studentFile, trainedSpecs(p.student), values)}
	if p.critic != nil {
		d, err := p.Engine.Download(p.critic, nil)
		if err != nil {
			return err
		}
		files = append(files, tensorFile(discriminatorFile, p.critic.Specs, d))
	}
	return p.Dir.SaveResult(p.point(), nil, files...)
}
