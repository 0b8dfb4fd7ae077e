// Package train walks a recipe's ladder over a run directory: it starts, continues or reports that nothing is left,
// and keeps the run watched, resumable and checked.
package train

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/data"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/cost"
	"fewstep/train/monitor"
	"fewstep/train/rundir"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
)

// ErrInterrupted ends a run that was asked to stop and has saved its state.
var ErrInterrupted = errors.New("interrupted; the state is saved, the same command continues")

// Options of a run besides its recipe.
type Options struct {
	Dir      string          // run directory
	Until    string          // stop after this stage; "" = the whole ladder
	Fork     *Fork           // begin with another run's results; nil = from nothing
	Version  string          // of fewstep, for the lineage
	Devices  int             // of the backend that train together; 0 = one
	Cluster  *cluster.Member // the processes that train together, each with as many devices; nil = this one alone
	Span     *xla.Span       // their devices, where XLA reaches them; nil = they add up through their hosts' memory
	Split    bool            // update tensor by tensor: see engine.Engine.Split
	Sites    bool            // programs of its own for every place: see engine.Engine.Sites
	Backend  compute.Backend
	Machine  map[string]string // what computes, by aspect: kept in the lineage, and a difference is told; may be nil
	Device   Device            // to tell its memory and the share of its speed that is reached; may be nil
	Log      *slog.Logger
	Progress monitor.Reporter // may be nil
	Metrics  monitor.Reporter // may be nil
	// Finished is called after each phase whose artifact no later phase of its stage makes again, and again for all
	// of them when a run continues: it must do nothing where its work is done. With a Cluster it is called on rank 0 alone,
	// beside the training of what follows, so that the other ranks do not wait: it must take no device.
	Finished func(ctx context.Context, r *Run, step distill.Step) error
}

// Run is a ladder being walked.
type Run struct {
	Config   *configs.Recipe
	Pipeline *pipeline.Pipeline
	Dir      *rundir.Dir
	Engine   *engine.Engine
	Ladder   *distill.Ladder
	Data     *data.Set

	opt      Options
	networks *method.Networks // on the engine's device
	opening  sync.Mutex       // base is asked for by several devices at once
	base     weights.Source   // the original UNet's file, once it is open
	samples  *samples
	stats    *monitor.Stats
	report   monitor.Reporter
	watch    *monitor.Watcher
	saved    time.Time // of the last checkpoint
	since    int64     // samples since then
	warming  sync.WaitGroup
	unsaved  atomic.Bool   // an update was made since the last checkpoint or result
	asked    bool          // all ranks were asked to save
	waited   time.Duration // for other processes, when that was told last
	slow     int           // rank that was slower than the others in the last measured update; -1 = none
	aside    background    // what Finished does beside training

	perSample map[string]float64 // operations of each phase

	group *engine.Group      // the devices that train together; nil before Walk
	peers []*method.Networks // on each of them but the first, as far as they were asked for
}

// Device tells of the device that a run trains on; *xla.Runtime does.
type Device interface {
	PeakTFLOPs() float64                          // 0 = not known
	DeviceMemory(n int) (xla.DeviceMemory, error) // an error where the plugin does not tell
}

// Open opens the model, the data and the run directory. Nothing is computed yet.
func Open(ctx context.Context, c *configs.Recipe, opt Options) (*Run, error) {
	r := &Run{Config: c, opt: opt, Engine: NewEngine(opt.Backend, c.Train, opt.Split), slow: -1}
	r.Engine.Sites = opt.Sites
	err := r.checkDevices()
	if err != nil {
		return nil, err
	}
	if !r.leads() { // what rank 0 finds out about the data lies in the directory then
		if err := r.hear("the run directory", nil); err != nil {
			return nil, err
		}
	}
	if err = r.Engine.CheckOffload(); err != nil {
		return nil, fmt.Errorf("train.offload: %w; set it to none, or use another --backend", err)
	}
	if r.Pipeline, err = pipeline.Open(c.ModelPath()); err != nil {
		return nil, err
	}
	if err := c.CheckTimesteps(r.Pipeline.Schedule.T()); err != nil {
		return nil, err
	}
	if c.Data.VAETile > 0 {
		if _, err := r.Pipeline.VAE.EncodeTiles(c.Data.VAETile); err != nil {
			return nil, fmt.Errorf("data.vae_tile: %w", err)
		}
	}
	if err := r.checkShapes(); err != nil {
		return nil, err
	}
	if r.Ladder, err = distill.NewLadder(c, r.Pipeline.Prediction); err != nil {
		return nil, err
	}
	if opt.Until != "" && c.Stage(opt.Until) == nil {
		return nil, fmt.Errorf("there is no stage %q to run until", opt.Until)
	}
	seen, err := r.openData(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.checkWeights(); err != nil {
		return nil, err
	}
	lineage, err := r.lineage(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.openDir(lineage, seen); err != nil {
		return nil, err
	}
	if err := r.sameInputs(lineage); err != nil {
		return nil, errors.Join(err, r.Dir.Close())
	}
	r.networks = r.newNetworks(r.Engine)
	return r, nil
}

// openDir opens the run directory; ranks other than 0 open it to read, once rank 0 has made it.
func (r *Run) openDir(lineage rundir.Lineage, seen *data.Seen) (err error) {
	if !r.leads() {
		err := r.visible(func() (err error) {
			r.Dir, err = rundir.View(r.opt.Dir)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w; rank 0 has just made it: a run directory must lie on a file system that all nodes share", err)
		}
		return nil
	}
	if err := r.fork(lineage); err != nil {
		return err
	}
	if r.Dir, err = rundir.OpenWith(r.opt.Dir, r.Config.Resolved(), lineage, r.rules()); err != nil {
		return err
	}
	r.Dir.Told = func(sentence string) { r.opt.Log.Warn(sentence) }
	for _, note := range r.Dir.Notes() {
		r.opt.Log.Warn(note)
	}
	r.Dir.Keep = r.Config.Train.KeepCheckpoints
	if err = r.rememberData(seen); err == nil {
		err = r.hear("the run directory", nil)
	}
	if err != nil {
		return errors.Join(err, r.Dir.Close())
	}
	return nil
}

// NewEngine makes an engine with a recipe's settings; split is engine.Engine.Split.
func NewEngine(backend compute.Backend, c configs.Train, split bool) *engine.Engine {
	return method.Set(engine.New(backend, dtypes.Float32, nn.Network), c, split)
}

// Unsaved says whether an update was made that neither a checkpoint nor a result holds. While none was, the process may
// end at any time: what it was about is begun again.
func (r *Run) Unsaved() bool { return r.unsaved.Load() }

// Close releases the run directory.
func (r *Run) Close() error {
	r.warming.Wait()
	for _, n := range append(r.peers, r.networks) {
		n.Free()
	}
	errs := []error{r.samples.close(), r.Dir.Close()}
	if r.base != nil {
		errs = append(errs, r.base.Close())
	}
	return errors.Join(errs...)
}

// Walk runs what is left of the ladder. It reports whether anything was left.
func (r *Run) Walk(ctx context.Context) (worked bool, err error) {
	if r.opt.Cluster != nil { // a rank that stops by itself would leave the others waiting
		defer r.stops(ctx)()
		ctx = r.opt.Cluster.Context()
	}
	shown := monitor.Fan(r.opt.Progress, r.opt.Metrics)
	defer func() { err = errors.Join(err, shown.Close()) }()
	for {
		did, again, err := r.walk(ctx, shown)
		worked = worked || did
		if err != nil || !again {
			return worked, err
		}
	}
}

// walk is Walk up to where phases that were set aside are put back, and the run stands elsewhere than it did: again.
func (r *Run) walk(ctx context.Context, shown monitor.Reporter) (worked, again bool, err error) {
	if r.group == nil {
		if r.group, err = engine.NewGroup(r.Engine, max(r.opt.Devices, 1), method.ComputeTypes[r.Config.Train.Reduce], r.job()); err != nil {
			return false, false, err
		}
	}
	state, checkpoint, err := r.standing()
	if err != nil {
		return false, false, err
	}
	if r.Ladder.Done(state) { // nothing more will be recorded
		return false, false, r.finishedBefore(ctx, state)
	}
	kept, err := r.records(state)
	if err != nil {
		return false, false, err
	}
	r.report = monitor.Fan(kept, shown)
	defer func() { err = errors.Join(err, kept.Close()) }()
	if _, err := r.original(); err != nil {
		return false, false, err
	}
	if _, _, err := r.networks.Specs(); err != nil {
		return false, false, err
	}
	r.warming.Wait()
	r.warming.Go(func() { r.compileAhead(ctx, state) })
	if r.perSample, err = r.operations(); err != nil {
		return false, false, err
	}
	r.opt.Log.Info("TFLOP/s and mfu count " + cost.ModelCount)
	if err := r.finishedBefore(ctx, state); err != nil {
		return false, false, err
	}
	for !r.Ladder.Done(state) {
		step, err := r.Ladder.Step(state)
		if err != nil {
			return worked, false, err
		}
		if r.opt.Until != "" && r.past(step) {
			return worked, false, nil
		}
		worked = true
		if checkpoint != nil && (checkpoint.Stage != step.StageName || checkpoint.Phase != step.PhaseName) {
			checkpoint = nil
		}
		if err := r.phase(ctx, step, checkpoint); err != nil {
			return worked, false, fmt.Errorf("stage %s, phase %s: %w", step.StageName, step.PhaseName, err)
		}
		checkpoint = nil
		put, err := r.putBack(ctx, step, state)
		if err == nil {
			err = r.hear("the phase's end", &put)
		}
		if err != nil {
			return worked, false, err
		}
		if err := r.finished(ctx, step); err != nil {
			return worked, false, err
		}
		if put {
			return worked, true, nil
		}
		state.Samples = step.Samples
		if state, err = r.Ladder.Next(state, distill.Event{Kind: distill.Finished}); err != nil {
			return worked, false, err
		}
	}
	return worked, false, nil
}

// records opens the files that every update is recorded in, from a state on; rank 0 alone writes them.
func (r *Run) records(from distill.State) (monitor.Reporter, error) {
	if !r.leads() {
		return monitor.Fan(), nil
	}
	var err error
	if r.stats, err = monitor.OpenStats(r.Dir.StatsPath(), r.Dir.TimingPath()); err != nil {
		return nil, err
	}
	events, err := monitor.OpenEvents(r.Dir.EventsPath(), r.Ladder.Position(from))
	if err != nil {
		return nil, errors.Join(err, r.stats.Close())
	}
	return monitor.Fan(r.stats, events), nil
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
	if !step.Final || r.opt.Finished == nil || !r.leads() {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return ErrInterrupted
	}
	finish := func() error {
		if err := r.opt.Finished(ctx, r, step); err != nil {
			return fmt.Errorf("after stage %s, phase %s: %w", step.StageName, step.PhaseName, err)
		}
		return nil
	}
	if r.opt.Cluster != nil {
		return r.aside.do(finish)
	}
	return finish()
}
