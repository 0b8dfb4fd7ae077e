// Package train walks a recipe's ladder over a run directory: it starts, continues or reports that nothing is left,
// and keeps the run watched, resumable and checked.
package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"fewstep/data"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/cost"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/gomlx/compute"
)

// ErrInterrupted ends a run that was asked to stop and has saved its state.
var ErrInterrupted = errors.New("interrupted; the state is saved, the same command continues")

// Options of a run besides its recipe.
type Options struct {
	Dir      string // run directory
	Until    string // stop after this stage; "" = the whole ladder
	Fork     *Fork  // begin with another run's results; nil = from nothing
	Version  string // of fewstep, for the lineage
	Split    bool   // update tensor by tensor: see engine.Engine.Split
	Sites    bool   // programs of its own for every place: see engine.Engine.Sites
	Backend  compute.Backend
	Device   Device // to tell its memory and the share of its speed that is reached; may be nil
	Log      *slog.Logger
	Progress monitor.Reporter // may be nil
	Metrics  monitor.Reporter // may be nil
	// Finished is called after each phase whose artifact no later phase of its stage makes again, and again for all
	// of them when a run continues: it must do nothing where its work is done.
	Finished func(ctx context.Context, r *Run, step distill.Step) error
}

// Run is a ladder being walked.
type Run struct {
	Config   *distill.Config
	Pipeline *pipeline.Pipeline
	Dir      *rundir.Dir
	Engine   *engine.Engine
	Ladder   *distill.Ladder
	Data     *data.Set

	opt     Options
	models  *models
	samples *samples
	stats   *monitor.Stats
	report  monitor.Reporter
	watch   *monitor.Watcher
	saved   time.Time // of the last checkpoint
	since   int64     // samples since then
	warming sync.WaitGroup
	unsaved atomic.Bool // an update was made since the last checkpoint or result

	perSample map[string]float64 // operations of each phase
}

// Device tells of the device that a run trains on; *xla.Runtime does.
type Device interface {
	PeakTFLOPs() float64                          // 0 = not known
	DeviceMemory(n int) (xla.DeviceMemory, error) // an error where the plugin does not tell
}

// Open opens the model, the data and the run directory. Nothing is computed yet.
func Open(c *distill.Config, opt Options) (*Run, error) {
	r := &Run{Config: c, opt: opt, Engine: NewEngine(opt.Backend, c.Train, opt.Split)}
	r.Engine.Sites = opt.Sites
	err := r.Engine.CheckOffload()
	if err != nil {
		return nil, fmt.Errorf("train.offload: %w; set it to none, or use another --backend", err)
	}
	if r.Pipeline, err = pipeline.Open(c.ModelPath()); err != nil {
		return nil, err
	}
	if err := c.CheckSchedule(r.Pipeline.Schedule); err != nil {
		return nil, err
	}
	if c.Data.VAETile > 0 {
		if _, err := r.Pipeline.VAE.EncodeTiles(c.Data.VAETile); err != nil {
			return nil, fmt.Errorf("data.vae_tile: %w", err)
		}
	}
	if r.Ladder, err = distill.NewLadder(c); err != nil {
		return nil, err
	}
	if opt.Until != "" && c.Stage(opt.Until) == nil {
		return nil, fmt.Errorf("there is no stage %q to run until", opt.Until)
	}
	seen, err := r.openData()
	if err != nil {
		return nil, err
	}
	if err := r.checkWeights(); err != nil {
		return nil, err
	}
	lineage, err := r.lineage()
	if err != nil {
		return nil, err
	}
	if err := r.fork(lineage); err != nil {
		return nil, err
	}
	if r.Dir, err = rundir.Open(opt.Dir, recipe(c, opt.Dir), lineage, "train.log_every", "train.checkpoint_minutes", "train.checkpoint_samples", "train.keep_checkpoints", "train.offload"); err != nil {
		return nil, err
	}
	if err := r.rememberData(seen); err != nil {
		return nil, errors.Join(err, r.Dir.Close())
	}
	for _, note := range r.Dir.Notes() {
		opt.Log.Warn(note)
	}
	r.Dir.Keep = c.Train.KeepCheckpoints
	r.models = &models{run: r}
	return r, nil
}

// recipe is the resolved recipe, or the one in the run directory where the two mean the same: an earlier version's lacks
// the keys that recipes did not have yet.
func recipe(c *distill.Config, dir string) []byte {
	old, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	if err != nil {
		return c.Resolved()
	}
	before, err := distill.Parse(old, dir)
	if err != nil {
		return c.Resolved()
	}
	now := c.Train
	before.Train.LogEvery, before.Train.KeepCheckpoints = now.LogEvery, now.KeepCheckpoints
	before.Train.CheckpointMinutes, before.Train.CheckpointSamples = now.CheckpointMinutes, now.CheckpointSamples
	before.Train.Offload = now.Offload
	if len(distill.Diff(before, c)) > 0 {
		return c.Resolved()
	}
	return old
}

// NewEngine makes an engine with a recipe's settings; split is engine.Engine.Split.
func NewEngine(backend compute.Backend, c distill.Train, split bool) *engine.Engine {
	e := engine.New(backend, cost.ComputeTypes[c.Compute], cost.Levels[c.Granularity])
	e.Calls, e.Frozen, e.Split = cost.Levels[c.CallGranularity()], cost.ComputeTypes[c.Frozen], split && e.Granularity == nn.Network
	e.Offload = cost.Offload(c)
	return e
}

// Unsaved says whether an update was made that neither a checkpoint nor a result holds. While none was, the process may
// end at any time: what it was about is begun again.
func (r *Run) Unsaved() bool { return r.unsaved.Load() }

// Close releases the run directory.
func (r *Run) Close() error {
	r.warming.Wait()
	return errors.Join(r.samples.close(), r.models.close(), r.Dir.Close())
}

// components are the folders of the base model whose weights a run depends on.
var components = []string{"unet", "vae", "text_encoder", "text_encoder_2"}

func (r *Run) lineage() (rundir.Lineage, error) {
	l := rundir.Lineage{FewstepVersion: r.opt.Version, Extra: map[string]string{}}
	for _, component := range components {
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
			h, err := weights.HashFile(f)
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
	l.DataManifest, err = r.Data.Digest()
	return l, err
}

// Position says where the ladder stands by what the directory holds.
func (r *Run) Position() (distill.State, error) {
	s := r.Ladder.Start()
	for !r.Ladder.Done(s) {
		step, err := r.Ladder.Step(s)
		if err != nil {
			return s, err
		}
		if _, err := r.Dir.Result(step.StageName, step.PhaseName); errors.Is(err, fs.ErrNotExist) {
			return s, nil
		} else if err != nil {
			return s, err
		}
		s.Samples = step.Samples
		if s, err = r.Ladder.Next(s, distill.Event{Kind: distill.Finished}); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Walk runs what is left of the ladder. It reports whether anything was left.
func (r *Run) Walk(ctx context.Context) (worked bool, err error) {
	state, err := r.Position()
	if err != nil {
		return false, err
	}
	checkpoint, skipped, err := r.Dir.LatestCheckpoint()
	if err != nil {
		return false, err
	}
	for _, s := range skipped {
		if !s.Unfinished {
			r.opt.Log.Warn("checkpoint passed over", "folder", s.Folder, "why", s.Why)
		}
	}
	from, err := r.resumeFrom(state, checkpoint)
	if err != nil {
		return false, err
	}
	if err := r.Dir.Rewind(from); err != nil {
		return false, err
	}
	if r.Ladder.Done(state) { // nothing more will be recorded
		return false, r.finishedBefore(ctx, state)
	}
	if r.stats, err = monitor.OpenStats(r.Dir.StatsPath(), r.Dir.TimingPath()); err != nil {
		return false, err
	}
	events, err := monitor.OpenEvents(r.Dir.EventsPath(), r.Ladder.Position(state))
	if err != nil {
		return false, err
	}
	r.report = monitor.Fan(r.stats, events, r.opt.Progress, r.opt.Metrics)
	defer func() { err = errors.Join(err, r.report.Close()) }()
	if err := r.models.load(); err != nil {
		return false, err
	}
	r.warming.Go(func() { r.warm(state) })
	if r.perSample, err = r.operations(); err != nil {
		return false, err
	}
	r.opt.Log.Info("TFLOP/s and mfu count " + cost.ModelCount)
	if err := r.finishedBefore(ctx, state); err != nil {
		return false, err
	}
	for !r.Ladder.Done(state) {
		step, err := r.Ladder.Step(state)
		if err != nil {
			return worked, err
		}
		if r.opt.Until != "" && r.past(step) {
			return worked, nil
		}
		worked = true
		if checkpoint != nil && (checkpoint.Stage != step.StageName || checkpoint.Phase != step.PhaseName) {
			checkpoint = nil
		}
		if err := r.phase(ctx, step, checkpoint); err != nil {
			return worked, fmt.Errorf("stage %s, phase %s: %w", step.StageName, step.PhaseName, err)
		}
		checkpoint = nil
		if err := r.finished(ctx, step); err != nil {
			return worked, err
		}
		state.Samples = step.Samples
		if state, err = r.Ladder.Next(state, distill.Event{Kind: distill.Finished}); err != nil {
			return worked, err
		}
	}
	return worked, nil
}

// past says whether a step lies behind the stage to run until.
func (r *Run) past(step distill.Step) bool {
	for i := range r.Config.Stages {
		if r.Config.Stages[i].Name == r.opt.Until {
			return step.Stage > i
		}
	}
	return false
}

// resumeFrom is the snapshot that stats.jsonl is cut back to.
func (r *Run) resumeFrom(state distill.State, checkpoint *rundir.Checkpoint) (*rundir.Snapshot, error) {
	if r.Ladder.Done(state) {
		steps := r.Ladder.Steps()
		last := steps[len(steps)-1]
		return r.Dir.Result(last.StageName, last.PhaseName)
	}
	step, err := r.Ladder.Step(state)
	if err != nil {
		return nil, err
	}
	if checkpoint != nil && checkpoint.Stage == step.StageName && checkpoint.Phase == step.PhaseName {
		r.opt.Log.Info("continuing", "stage", step.StageName, "phase", step.PhaseName, "samples", checkpoint.Samples, "of", step.Samples)
		return checkpoint, nil
	}
	var before *rundir.Snapshot
	for _, s := range r.Ladder.Steps() {
		if s.Stage == step.Stage && s.Phase == step.Phase {
			break
		}
		if before, err = r.Dir.Result(s.StageName, s.PhaseName); err != nil {
			return nil, err
		}
	}
	if before != nil {
		r.opt.Log.Info("continuing", "stage", step.StageName, "phase", step.PhaseName, "samples", 0, "of", step.Samples)
	}
	return before, nil
}

// finishedBefore repeats the after-work of phases that were done by an earlier process.
func (r *Run) finishedBefore(ctx context.Context, until distill.State) error {
	for _, step := range r.Ladder.Steps() {
		if step.Stage > until.Stage || step.Stage == until.Stage && step.Phase >= until.Phase {
			break
		}
		if err := r.finished(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (r *Run) finished(ctx context.Context, step distill.Step) error {
	if !step.Final || r.opt.Finished == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return ErrInterrupted
	}
	if err := r.opt.Finished(ctx, r, step); err != nil {
		return fmt.Errorf("after stage %s, phase %s: %w", step.StageName, step.PhaseName, err)
	}
	return nil
}
