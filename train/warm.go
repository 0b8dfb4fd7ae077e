package train

import (
	"fmt"
	"runtime"
	"sync"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/distill/program"
	"fewstep/engine"
	"fewstep/model/discriminator"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// warmer collects the programs that the rest of a ladder will need, in the order in which it needs them.
type warmer struct {
	*Run
	engine    *engine.Engine  // the run's, or one for the folder of compiled programs
	in        []*engine.Array // the denoiser's inputs
	column, x *engine.Array
	jobs      []func() error
	seen      map[string]bool
}

// warm compiles in the background, on all cores, the programs that the rest of the ladder will need: by the time a
// phase starts its programs are there, or in the folder of compiled programs. Whatever fails here fails again, with its
// place, when it is used.
func (r *Run) warm(from distill.State) {
	if r.models.load() != nil {
		return
	}
	e := r.Engine
	if e.Sites { // one program of each kind will do: what is its copy is loaded by the phase
		e = e.Twin()
		e.Sites = false
		defer e.Drop()
	}
	n := r.perDevice()
	w := &warmer{Run: r, engine: e, seen: map[string]bool{}, column: engine.Input(shapes.Make(dtypes.Float32, n))}
	for _, s := range r.Pipeline.UNetInputs(n, pipeline.Square(r.Config.Data.Resolution)) {
		w.in = append(w.in, engine.Input(s))
	}
	w.x = w.in[0]
	for _, step := range r.Ladder.Steps() {
		if step.Kind != configs.KindMerge && !(r.opt.Until != "" && r.past(step)) && (step.Stage > from.Stage || step.Stage == from.Stage && step.Phase >= from.Phase) {
			w.step(step)
		}
	}
	queue := make(chan func() error)
	var wait sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	if r.Engine.Granularity < nn.Network {
		workers = 2 // each function compiles its programs on all cores, and those of the first phase go first
	}
	for range workers {
		wait.Go(func() {
			for j := range queue {
				_ = j()
			}
		})
	}
	for _, j := range w.jobs {
		queue <- j
	}
	close(queue)
	wait.Wait()
}

func (w *warmer) add(name string, job func() error) {
	if !w.seen[name] {
		w.seen[name] = true
		w.jobs = append(w.jobs, job)
	}
}

func (w *warmer) with(more ...*engine.Array) []*engine.Array {
	return append(append([]*engine.Array{}, w.in...), more...)
}

// step adds a phase's programs: the teacher's and the student's calls, and what is trained.
func (w *warmer) step(step distill.Step) {
	plain := &program.Functions{UNet: w.Pipeline.UNet, Disc: w.critics(), R1: penalty(w.Config)}
	f, student, target := plain, w.engine.Shapes(w.models.full, everything), "full"
	if step.Target == configs.TargetLoRA && !w.engine.Split { // split training materialises adapters
		f = &program.Functions{UNet: plain.UNet, Disc: plain.Disc, LoRA: w.models.adapters(), R1: plain.R1}
		student, target = w.engine.Shapes(w.models.lora, engine.IsLoRA), "lora"
	}
	move := func(name string, guided bool, f *program.Functions, params *engine.Params) {
		w.add(fmt.Sprint(name, guided), func() error { return f.WarmMove(w.engine, params, guided, !w.Pipeline.ZeroEmpty, w.in, w.column) })
	}
	guided := step.Guidance > 1
	move("teacher full", guided, plain, w.engine.Shapes(w.models.full, nil))
	if w.models.besideBase(step.Teacher) {
		beside := &program.Functions{UNet: plain.UNet, LoRA: w.models.adapters()}
		move("teacher lora", guided, beside, w.engine.Shapes(w.models.lora, nil))
	}
	adam, ofStudent := w.adam(step), w.adam(step)
	ofStudent.EMA = w.Config.Train.EMA
	micro := w.Config.Train.Accumulate
	train := func(name string, f engine.Function, bind engine.Bind, network string, adam engine.Adam, in []*engine.Array) {
		w.add(name, func() error { return w.engine.WarmTrain(f, bind, network, adam, micro, in...) })
	}
	if step.Kind != configs.KindAdversarial {
		train("mse "+target, f.MSE(), engine.Bind{program.NetUNet: student}, program.NetUNet, ofStudent, w.with(w.column, w.column, w.x))
		return
	}
	shared := program.SharesForward(w.engine, micro)
	if !shared {
		move("student "+target, false, f, student)
	}
	form := discriminator.Form(step.Form)
	specs, err := nn.Trace(w.opt.Backend, plain.Disc.Network("", form), w.Pipeline.UNetInputs(1, pipeline.Square(w.Config.Data.Resolution))...)
	if err != nil {
		return
	}
	bind := engine.Bind{program.NetUNet: student, program.NetDisc: w.engine.Shapes(specs, plain.Disc.Trains)}
	if shared {
		w.add("step "+target, func() error {
			return w.engine.WarmRecord(f.Step(), bind, program.NetUNet, ofStudent, w.with(w.column, w.column)...)
		})
	}
	adam.WeightDecay = w.Config.Stages[step.Stage].Phases[step.Phase].DiscriminatorWeightDecay
	shown := w.with(w.x, w.x, w.column, w.x, w.column, w.column)
	if f.R1.Weight > 0 {
		shown = append(shown, w.x)
	}
	train("critic "+step.Form, f.Discriminator(form), bind, program.NetDisc, adam, shown)
	if !shared {
		train("generator "+target+" "+step.Form, f.Generator(form), bind, program.NetUNet, ofStudent, w.with(w.column, w.column, w.column, w.x, w.column, w.column))
		return
	}
	w.add("critique "+target+" "+step.Form, func() error {
		in := append([]*engine.Array{w.x}, w.with(w.column, w.x, w.column, w.column)...)
		return w.engine.WarmContinue(f.Critique(form), bind, program.NetUNet, ofStudent, in...)
	})
}
