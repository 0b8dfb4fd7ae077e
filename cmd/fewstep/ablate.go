package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fewstep/eval/ablation"
	"fewstep/eval/ablation/series"
)

func init() { register(newAblate) }

type ablateOptions struct {
	dir        string
	minutes    float64
	gpus       []string
	sideBySide int
	accept     bool
	set        []string
}

// Of the time given, runs are asked to save and to end so long before its end, and killed so long before it: then the page is
// written.
const (
	ablateStop = 24 * time.Second
	ablateKill = 10 * time.Second
)

func newAblate(a *app) *cobra.Command {
	var o ablateOptions
	c := &cobra.Command{
		Use:   "ablate LIST",
		Short: "Train and measure the runs of an ablation within a given time, several side by side, and write its page.",
		Long: "Trains and measures the runs of an ablation within a given time.\n\n" +
			"LIST names recipes and seeds, most important first. A row begins with what the main recipe's run of its seed has made\n" +
			"before the two differ. A run that fails costs the others nothing. When the time is over, runs save and end; the same\n" +
			"command goes on. Each run is a process of its own, with its log in DIR/logs.\n\n" +
			"Whenever a run is measured, DIR/page has the page of what is measured so far (see 'fewstep compare --page'), and DIR/small what\n" +
			"is needed to write it again elsewhere: tables, recipes, statistics, without weights.\n\n" +
			"Ends with exit code 3 where something is left to do, 1 where a run failed.",
		Example: "  fewstep ablate examples/ablation/scenes.yaml --dir runs/ablation --minutes 30 --gpus 0,1 --side-by-side 2",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.ablate(cmd, args[0], o) },
	}
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "folder of the runs (required)")
	f.Float64Var(&o.minutes, "minutes", 0, "end within this time; 0 = when all is done")
	f.StringSliceVar(&o.gpus, "gpus", nil, "GPUs to use, by number, as CUDA_VISIBLE_DEVICES has them; default: what each run finds")
	f.IntVar(&o.sideBySide, "side-by-side", 1, "runs at a time on each GPU, which share its memory evenly")
	f.BoolVar(&o.accept, "accept", true, "first test whether the benchmark can tell models apart")
	f.StringArrayVar(&o.set, "set", nil, "change a key of every recipe, as key=value; repeat for several")
	_ = c.MarkFlagRequired("dir")
	return c
}

func (a *app) ablate(cmd *cobra.Command, path string, o ablateOptions) error {
	begun := time.Now()
	if o.sideBySide < 1 {
		return usageErrorf("--side-by-side %d: give 1 or more", o.sideBySide)
	}
	if o.minutes < 0 || o.minutes > 0 && time.Duration(o.minutes*float64(time.Minute)) < 2*ablateStop {
		return usageErrorf("--minutes %g: give 0, or more than %g: so much is kept for saving and for the page", o.minutes, (2 * ablateStop).Minutes())
	}
	s, err := series.Read(path, o.set)
	if err != nil {
		return withCode(exitUsage, err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if o.sideBySide > 1 && len(o.gpus) > 0 && !servesMPS() {
		a.log.Warn("runs side by side take turns on a GPU, which gains little: NVIDIA's Multi-Process Service lets their kernels run at once", "start it with", "nvidia-cuda-mps-control -d")
	}
	end := begun.Add(100 * 365 * 24 * time.Hour)
	if o.minutes > 0 {
		end = begun.Add(time.Duration(o.minutes * float64(time.Minute)))
	}
	w := series.Options{Dir: o.dir, Accept: o.accept, Set: o.set, Stop: end.Add(-ablateStop), Kill: end.Add(-ablateKill), Slots: slots(o.gpus, o.sideBySide),
		Say: func(text string) { a.log.Info(text) },
		Done: func() { // what is measured is on the page at once: this machine may be gone before the end
			if err := a.ablatePage(o.dir, s); err != nil {
				a.log.Warn("the page is not written", "error", err)
			}
		},
		Args: []string{"--backend", a.backend, "--memory-fraction", strconv.FormatFloat(a.memory/float64(o.sideBySide), 'g', 4, 64)},
		Start: func(j series.Job) *exec.Cmd {
			c := exec.Command(self, j.Args...)
			c.Args[0] = "fewstep"
			return c
		}}
	outcomes, err := s.Walk(cmd.Context(), w)
	if err != nil && len(outcomes) == 0 {
		return err
	}
	if err := errors.Join(a.ablatePage(o.dir, s), err); err != nil {
		return err
	}
	return a.ablated(outcomes)
}

// servesMPS tells whether NVIDIA's Multi-Process Service is there for the processes of this one.
func servesMPS() bool {
	_, err := os.Stat(filepath.Join(cmp.Or(os.Getenv("CUDA_MPS_PIPE_DIRECTORY"), "/tmp/nvidia-mps"), "control"))
	return err == nil
}

// slots are the places where runs go on side by side.
func slots(gpus []string, each int) (out []series.Slot) {
	for range each {
		for _, g := range gpus {
			out = append(out, series.Slot{Name: "GPU " + g, Env: []string{"CUDA_VISIBLE_DEVICES=" + g}})
		}
		if len(gpus) == 0 {
			out = append(out, series.Slot{Name: "this machine"})
		}
	}
	return out
}

// ablatePage writes the page of the runs that are measured, and what is needed to write it again.
func (a *app) ablatePage(dir string, s *series.Series) error {
	var runs []string
	for _, r := range s.Runs {
		path := filepath.Join(dir, r.Name)
		if have, err := series.Measured(path); err != nil {
			return err
		} else if have {
			runs = append(runs, path)
		}
	}
	if len(runs) == 0 {
		return nil
	}
	t, err := ablation.Read(runs)
	if err != nil {
		return err
	}
	if err := t.WriteSmall(filepath.Join(dir, "small")); err != nil {
		return err
	}
	return a.writePage(t, filepath.Join(dir, "page"), filepath.Join(dir, "acceptance"))
}

// ablated says what became of the runs.
func (a *app) ablated(outcomes []series.Outcome) error {
	if a.json {
		if err := a.writeJSON(outcomes); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "RUN\tSTATE\tSECONDS\tWHY")
		for _, o := range outcomes {
			fmt.Fprintf(w, "%s\t%s\t%.0f\t%s\n", o.Name, o.State, o.Seconds, o.Why)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	var failed, left []string
	for _, o := range outcomes {
		switch o.State {
		case series.Failed:
			failed = append(failed, o.Name)
		case series.Stopped, series.Waiting:
			left = append(left, o.Name)
		}
	}
	switch {
	case len(failed) > 0:
		return withHint(fmt.Errorf("failed: %s", strings.Join(failed, ", ")), "their logs are in the folder logs; the same command tries them again, last")
	case len(left) > 0:
		return withHint(withCode(exitInterrupted, fmt.Errorf("%d of %d are not done: %s", len(left), len(outcomes), strings.Join(slices.Clip(left), ", "))), "the same command goes on with them")
	}
	return nil
}
