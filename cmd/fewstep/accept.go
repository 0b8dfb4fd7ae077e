package main

import (
	"fmt"
	"path/filepath"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/engine"
	"fewstep/eval"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
)

type acceptOptions struct {
	out, inception string
	set            []string
}

// newAccept is the command "eval accept".
func newAccept(a *app) *cobra.Command {
	var o acceptOptions
	c := &cobra.Command{
		Use:   "accept CONFIG",
		Short: "Test whether a benchmark can tell good models from bad, before any ladder is judged by it.",
		Long: "Tests a recipe's teacher, data and protocol.\n\n" +
			"Measured are held-out real images, the teacher, its network at 8 calls, and the\n" +
			"real images blurred, with noise, with the captions of others and, where the data set is drawn, without half of their\n" +
			"objects. The benchmark passes if at 8 calls the undistilled network is at least twice as far from the real images as the\n" +
			"teacher, held-out real images are clearly nearer than the teacher, and every damage is clearly worse: in the pipeline's\n" +
			"CLIP, in an independent network, in the Laplacian's energy and in the CLIP score, as far as each can see it.\n\n" +
			configHelp + "\n\n" +
			"Ends with exit code 1 where a criterion is not met or could not be measured.",
		Example: "  python3 scripts/fetch_nsfwjs.py\n  fewstep eval accept configs/scenes/full.yaml --inception nsfwjs-inception --out acceptance",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.accept(cmd, args[0], o) },
	}
	f := c.Flags()
	f.StringVarP(&o.out, "out", "o", "", "folder for acceptance.md, acceptance.json and what a stopped test continues from")
	f.StringVar(&o.inception, "inception", "", "weights of the independent network, a file or nsfwjs-inception once fetched; default: the recipe's eval.inception")
	f.StringArrayVar(&o.set, "set", nil, "change a key of the config, as key=value; repeat for several")
	return c
}

func (a *app) accept(cmd *cobra.Command, path string, o acceptOptions) error {
	c, err := a.recipe(path, o.set...)
	if err != nil {
		return err
	}
	if c.Model, err = a.local(cmd.Context(), c.Model); err != nil {
		return err
	}
	if o.inception != "" {
		c.Eval.Inception = o.inception
	}
	s := eval.Spec{Config: c, Progress: a.evalProgress(), Warn: func(text string) { a.log.Warn(text) }}
	if !a.quiet {
		s.Metric = func(name string) { a.log.Info("computing " + name) }
	}
	if s.Pipeline, err = pipeline.Open(c.ModelPath()); err != nil {
		return err
	}
	rt, err := a.openBackend(xla.Options{})
	if err != nil {
		return err
	}
	defer rt.Close()
	s.Engine = engine.New(rt.Backend, dtypes.Float32, nn.Network)
	s.Engine.Context = cmd.Context()
	if s.Drawers, err = drawersOf(cmd.Context(), rt, 1, c.Train.Compute, &s); err != nil {
		return err
	}
	s.Base = s.Loader(s.Pipeline, "", "")
	if o.out != "" {
		s.KeepIn(o.out)
	}
	v, err := eval.Open(cmd.Context(), s)
	if err != nil {
		return err
	}
	defer v.Close()
	result, err := v.Accept(cmd.Context())
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := result.Write(o.out); err != nil {
			return err
		}
		a.log.Info("written", "file", filepath.Join(o.out, "acceptance.md"))
	}
	if a.json {
		if err := a.writeJSON(result); err != nil {
			return err
		}
	} else {
		fmt.Fprint(a.stdout, result.Markdown())
	}
	if unmet := result.Unmet(); unmet > 0 {
		return fmt.Errorf("%s: %d of %d criteria are not met", path, unmet, len(result.Criteria))
	}
	return nil
}
