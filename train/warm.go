package train

import (
	"runtime"
	"sync"

	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// warm compiles in the background, on all cores, the programs that the rest of the ladder will need: by the time a
// phase starts its programs are there. Whatever fails here fails again, with its place, when it is used.
func (r *Run) warm(from distill.State) {
	if r.Engine.Granularity < nn.Network || !r.Engine.Split || r.models.load() != nil {
		return
	}
	n := r.Config.Train.Batch
	in := []*engine.Array{}
	for _, s := range r.Pipeline.UNetInputs(n, r.Config.Data.Resolution) {
		in = append(in, engine.Input(s))
	}
	column, x := engine.Input(shapes.Make(dtypes.Float32, n)), in[0]
	f := &program.Functions{UNet: r.Pipeline.UNet, Disc: r.discriminator()}
	f32 := func(s nn.Spec) shapes.Shape { return shapes.Make(dtypes.Float32, s.Dims...) }
	unet := engine.Shapes(r.models.full, f32)
	names := func(specs []nn.Spec) (out []string) {
		for _, s := range specs {
			out = append(out, s.Name)
		}
		return out
	}
	type job func() error
	var jobs []job
	seen := map[string]bool{}
	add := func(name string, j job) {
		if !seen[name] {
			seen[name] = true
			jobs = append(jobs, j)
		}
	}
	with := func(more ...*engine.Array) []*engine.Array { return append(append([]*engine.Array{}, in...), more...) }
	add("predict", func() error { return r.Engine.Warm(f.Predict(), engine.Bind{program.NetUNet: unet}, "", nil, in...) })
	for _, step := range r.Ladder.Steps() {
		if step.Kind == distill.KindMerge || step.Stage < from.Stage || step.Stage == from.Stage && step.Phase < from.Phase {
			continue
		}
		if step.Kind != distill.KindAdversarial {
			add("mse", func() error {
				return r.Engine.Warm(f.MSE(), engine.Bind{program.NetUNet: unet}, program.NetUNet, names(r.models.full), with(column, column, x)...)
			})
			continue
		}
		form := discriminator.Form(step.Form)
		specs, err := nn.Trace(r.opt.Backend, r.discriminator().Network("", form), r.Pipeline.UNetInputs(1, r.Config.Data.Resolution)...)
		if err != nil {
			continue
		}
		bind := engine.Bind{program.NetUNet: unet, program.NetDisc: engine.Shapes(specs, f32)}
		add("critic "+step.Form, func() error {
			return r.Engine.Warm(f.Discriminator(form), bind, program.NetDisc, names(specs), with(x, x, column, x, column, column)...)
		})
		add("generator "+step.Form, func() error {
			return r.Engine.Warm(f.Generator(form), bind, program.NetUNet, names(r.models.full), with(column, column, column, x, column, column)...)
		})
	}
	queue := make(chan job)
	var wait sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for j := range queue {
				_ = j()
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	wait.Wait()
}
