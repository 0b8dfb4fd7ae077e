package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/train"
	"fewstep/train/monitor"
	"fewstep/train/results"
	"fewstep/train/rundir"
)

func init() { register(newRun) }

type runOptions struct {
	devices             string
	dir, until, metrics string
	fork, from          string
	set                 []string
	cluster             clusterFlags
}

func newRun(a *app) *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run CONFIG",
		Short: "Distil a model down the whole ladder: starts, continues, or says that it is done.",
		Long: "Everything the run makes lies in its directory; the same command continues after a crash, a kill or Ctrl-C.\n" +
			"A directory made by another config is refused, naming the keys that differ.\n\n" +
			configHelp + "\n\n" +
			"With --fork a new directory begins with the results of another run, so that recipes that differ in their later phases\n" +
			"train their first ones once. --from names the first stage that is trained anew, or the first phase, STAGE/PHASE; without\n" +
			"it that is the first phase that depends on what the two recipes differ in. All before it is taken over, verified, as hard\n" +
			"links or copies, so the other run may be deleted afterwards. The two recipes must agree in everything on which these\n" +
			"phases depend, and base weights and data must be the same.\n\n" +
			"Started as several processes, one on each node, it trains on the devices of all; the run directory lies on a file system\n" +
			"that they share. " + clusterHelp + "\nA rank that fails, or is lost, ends all ranks with one exit code; starting all again continues.",
		Example: "  fewstep run mini/demo --dir runs/demo\n" +
			"  fewstep run configs/mini/demo.yaml --dir runs/other --set stages.8.phases.lora-cond.lr=5e-5 --fork runs/demo --from 8",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.fork == "" && o.from != "" {
				return withHint(usageErrorf("--from says from where on a fork trains, and --fork is not there"), "give --fork too: the run to begin with")
			}
			return a.run(cmd, args[0], o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "run directory (required)")
	f.StringVar(&o.until, "until", "", "stop after this stage")
	f.StringVar(&o.devices, "devices", "1", devicesUsage+"; may change when a run continues")
	f.StringVar(&o.fork, "fork", "", "begin with the results of this run")
	f.StringVar(&o.from, "from", "", "with --fork: the first stage to train anew, or STAGE/PHASE")
	f.StringArrayVar(&o.set, "set", nil, "change a key of the config, as key=value; repeat for several")
	o.cluster.add(f)
	f.StringVar(&o.metrics, "metrics", "", "serve Prometheus metrics on this address, e.g. localhost:9090")
	_ = c.MarkFlagRequired("dir")
	return c
}

func (a *app) run(cmd *cobra.Command, path string, o runOptions) error {
	place, err := o.cluster.place()
	if err != nil {
		return withHint(err, "--launcher none leaves the launcher's variables alone")
	}
	var run atomic.Pointer[train.Run]
	unsaved := func() bool {
		r := run.Load()
		return r != nil && r.Unsaved()
	}
	if place.Nodes > 1 {
		return a.runTogether(cmd.Context(), place, path, o, unsaved, &run)
	}
	config, err := a.recipeOf(cmd.Context(), path, o)
	if err != nil {
		return err
	}
	return refused(interruptible(cmd.Context(), unsaved, func() error { return a.walk(cmd.Context(), config, path, o, nil, &run) }))
}

// recipeOf is the recipe of a run, whose model is here.
func (a *app) recipeOf(ctx context.Context, path string, o runOptions) (*configs.Recipe, error) {
	config, err := a.recipe(path, o.set...)
	if err != nil {
		return nil, err
	}
	config.Model, err = a.local(ctx, config.Model)
	return config, err
}

// walk opens a backend and a run, and trains until the recipe is done. The recipe's model must be on this machine; m are the
// ranks that train together, nil where this process is alone. opened receives the run once it is open.
func (a *app) walk(ctx context.Context, config *configs.Recipe, path string, o runOptions, m *cluster.Member, opened *atomic.Pointer[train.Run]) error {
	most, err := atMost(o.devices)
	if err != nil {
		return err
	}
	host, err := offloaded(config, most)
	if err != nil {
		return err
	}
	options := xla.Options{HostMemory: host}
	nodes := 1
	if m != nil {
		nodes = m.Nodes()
		options.Processes = &xla.Processes{Index: m.Rank(), Count: nodes, Store: m.Store("pjrt")}
	}
	rt, devices, err := a.openDevices(o.devices, options)
	if err != nil {
		return err
	}
	defer rt.Close()
	if config.Train.Batch%(devices*nodes) != 0 {
		return withCode(exitUsage, train.Indivisible(config.Train.Batch, devices*nodes))
	}
	if err := a.fitsDevice(rt, config, path, o.set, devices*nodes); err != nil {
		return err
	}
	maker := &results.Maker{Log: a.log}
	opt := train.Options{Dir: o.dir, Until: o.until, Version: readVersion().Version, Devices: devices, Backend: rt.Backend, Split: rt.Kind != xla.CUDA, Sites: rt.Sites(), Device: rt,
		Machine: machine(rt), Log: a.log, Finished: maker.Phase}
	if m != nil {
		opt.Cluster, opt.Finished = m, maker.Export
		if opt.Span, err = a.spanned(m, rt, devices); err != nil {
			return err
		}
	}
	if o.fork != "" {
		opt.Fork = &train.Fork{Run: o.fork, From: o.from}
	}
	if !a.quiet {
		style := monitor.StyleAuto
		if a.json {
			style = monitor.StyleJSON
		}
		opt.Progress = monitor.NewProgress(a.stderr, style, 10*time.Second)
	}
	if o.metrics != "" {
		m, err := monitor.ServeMetrics(o.metrics)
		if err != nil {
			return err
		}
		opt.Metrics = m
	}
	r, err := train.Open(ctx, config, opt)
	if err != nil {
		return err
	}
	defer r.Close()
	opened.Store(r)
	if m != nil && m.Rank() > 0 {
		if _, err := r.Walk(ctx); err != nil {
			return err
		}
		return m.Leave(m.Context())
	}
	unmeasured := results.Unmeasured(r)
	if unmeasured != "" { // said before the days that a run may take
		a.log.Warn("this run will make no report: "+unmeasured, "instead", "fewstep eval --follow "+o.dir)
	}
	worked, err := r.Walk(ctx)
	if err != nil {
		return err
	}
	if m != nil { // drawing and measuring take this process alone: the others end
		if err := m.Leave(m.Context()); err != nil {
			return err
		}
		err := r.Finished()
		if err == nil {
			err = r.Made(func(step distill.Step) error { return maker.Sheet(ctx, r, step) })
		}
		if err != nil {
			return err
		}
	}
	if o.until == "" {
		reported, err := maker.Report(ctx, r)
		if err != nil {
			return err
		}
		worked = worked || reported
	}
	if goodput, err := monitor.ReadGoodput(r.Dir.TimingPath()); err == nil && goodput.Updates > 0 {
		a.log.Info(goodput.String())
	}
	stats := r.Engine.Compiled()
	a.log.Info("programs", "compiled", stats.Programs-stats.Cached, "from the cache", stats.Cached, "seconds", fmt.Sprintf("%.1f", stats.Wall.Seconds()))
	switch {
	case !worked:
		fmt.Fprintln(a.stdout, "done")
	case o.until == "" && unmeasured != "":
		fmt.Fprintln(a.stdout, r.Dir.Path(rundir.Exports))
	case o.until == "":
		fmt.Fprintln(a.stdout, r.Dir.ArtifactPath(rundir.Report, "index.html"))
	}
	return nil
}

// machine says what computes, as a run's lineage keeps it. Sums on another number of threads differ in the last bits.
func machine(rt *xla.Runtime) map[string]string {
	return map[string]string{"backend": rt.Kind, "plugin": rt.Version, "device": rt.DeviceName(), "CPU threads": strconv.Itoa(runtime.GOMAXPROCS(0))}
}

// refused gives run errors their exit codes.
func refused(err error) error {
	var mismatch *rundir.ConfigMismatch
	var lineage *rundir.LineageMismatch
	var nonfinite *monitor.NonFinite
	var fork *train.ForkRefused
	switch {
	case errors.Is(err, train.ErrInterrupted), errors.Is(err, context.Canceled): // the latter from drawing and measuring
		return withCode(exitInterrupted, train.ErrInterrupted)
	case errors.As(err, &mismatch), errors.As(err, &lineage):
		return withHint(withCode(exitRefused, err), "use another --dir, or the config and data that the directory was made with")
	case errors.As(err, &fork):
		return withHint(withCode(exitRefused, err), "%s", fork.Hint)
	case errors.As(err, &nonfinite):
		return withHint(withCode(exitNonFinite, err), "start again with a lower rate, --set stages.%s.phases.%s.lr=…, which a phase without a result may be given: it goes on from its newest checkpoint; 'fewstep rewind' goes further back", nonfinite.Stage, nonfinite.Phase)
	}
	return err
}
