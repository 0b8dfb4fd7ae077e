package train

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/data"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
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

// Run is a ladder that is walked over a run directory.
type Run struct {
	Setup
	Engine *engine.Engine // of the first device

	opt      Options
	models   *models
	loader   *loader            // from the first phase that trains on
	group    *engine.Group      // the devices that train together; nil before Walk
	networks []*method.Networks // on each of them
	report   monitor.Reporter
	unsaved  atomic.Bool      // an update was made since the last checkpoint or result
	aside    background       // what Finished does beside training
	account  *monitor.Account // of goodput, on rank 0

	perSample map[string]float64 // operations of each phase, by "stage/phase"
	compiling sync.WaitGroup     // ahead of what is trained ...
	interrupt func()             // ... which this ends
	ordered   chan<- *loader     // ... and which waits for this, to know other shapes than the largest
}

// Device tells of the device that a run trains on; *xla.Runtime does.
type Device interface {
	PeakTFLOPs() float64                          // 0 = not known
	DeviceMemory(n int) (xla.DeviceMemory, error) // an error where the plugin does not tell
}

// Open opens the model, the data and the run directory. Nothing is computed yet.
func Open(ctx context.Context, c *configs.Recipe, opt Options) (*Run, error) {
	r := &Run{opt: opt, Engine: NewEngine(opt.Backend, c.Train, opt.Split), interrupt: func() {},
		Setup: Setup{Config: c, ranks: &ranks{opt.Cluster, max(opt.Devices, 1)}, folder: opt.Dir, backend: opt.Backend, log: opt.Log}}
	r.Engine.Sites = opt.Sites
	if opt.Cluster != nil {
		r.Engine.OnCompiled(opt.Cluster.Advance)
	}
	if err := r.checkDevices(); err != nil {
		return nil, err
	}
	if err := r.Engine.CheckOffload(); err != nil {
		return nil, fmt.Errorf("train.offload: %w; set it to none, or use another --backend", err)
	}
	if err := r.openModel(); err != nil {
		return nil, err
	}
	var err error
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
	if err := r.sameInputs(c, lineage); err != nil { // before there is a directory that remembers wrong ones
		return nil, err
	}
	if err := r.openDir(lineage, seen); err != nil {
		return nil, err
	}
	r.models = &models{Setup: &r.Setup}
	r.networks = []*method.Networks{r.models.networks(r.Engine)}
	return r, nil
}

// openDir opens the run directory; ranks other than 0 open it to read, once rank 0 has made it.
func (r *Run) openDir(lineage rundir.Lineage, seen *data.Seen) (err error) {
	if !r.leads() {
		if err := r.hear("the run directory", nil); err != nil {
			return err
		}
		err := r.visible(func() (err error) {
			r.Dir, err = rundir.View(r.folder)
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
	if r.Dir, err = rundir.OpenWith(r.folder, r.Config.Resolved(), lineage, r.rules()); err != nil {
		return err
	}
	r.Dir.Told = func(sentence string) { r.log.Warn(sentence) }
	for _, note := range r.Dir.Notes() {
		r.log.Warn(note)
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

// Unsaved says whether an update was made that neither a checkpoint nor a result holds. While there is none, the process may end
// at any time and lose no training.
func (r *Run) Unsaved() bool { return r.unsaved.Load() }

// Close releases the run directory and the devices' memory. It does not wait for programs that are being compiled.
func (r *Run) Close() error {
	r.interrupt()
	r.compiling.Wait()
	for _, n := range r.networks {
		n.Free()
	}
	return errors.Join(r.loader.close(), r.Dir.Close(), r.models.close())
}

// Engines are those of this process's devices; the first leads. There are none before Walk.
func (r *Run) Engines() []*engine.Engine { return r.group.Engines() }

// During has the engines wait for compilations, and load networks, no longer than ctx; nil = to the end.
func (r *Run) During(ctx context.Context) { during(ctx, r.Engines()) }

// Model puts the model of a finished step on the device of one of Engines, for sampling.
func (r *Run) Model(e *engine.Engine, step distill.Step) (*engine.Params, func(), error) {
	model := distill.Model{Full: step.Produces}
	if step.Target == configs.TargetLoRA {
		model = distill.Model{Full: distill.Base, LoRA: step.Produces}
	}
	return r.frozen(e, model, len(r.Ladder.Steps()))
}

// Base puts the original model on the device of one of Engines.
func (r *Run) Base(e *engine.Engine) (*engine.Params, func(), error) {
	return r.frozen(e, distill.Model{Full: distill.Base}, 0)
}

// frozen puts a model on a device as it is before the phase at an index of the ladder.
func (r *Run) frozen(e *engine.Engine, m distill.Model, before int) (*engine.Params, func(), error) {
	n := r.networks[slices.Index(r.Engines(), e)]
	n.Weights = r.models.before(before)
	return n.Frozen(m)
}
