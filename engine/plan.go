package engine

import (
	"fmt"
	"strings"
	"sync"

	"fewstep/model/nn"

	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// plan is what one dry walk over a function learns: how often each value is used, how often each trained parameter is
// visited, and which programs the real walk will need. It depends on shapes only and is kept per function.
type plan struct {
	uses   []int          // per value in order of creation, the function's inputs first
	visits map[string]int // per site with trained parameters
	loss   int            // value that is differentiated: the function's first output
}

// blockCall identifies one evaluation of a block: everything its programs depend on besides the arrays.
type blockCall struct {
	block  nn.Block
	prefix string // absolute scope of the block
	lora   *nn.LoRA
	key    string
}

// site is the place of a block in its network: several kinds may share one scope.
func (c blockCall) site() string { return c.prefix + "|" + c.block.Kind }

func (e *Engine) newCall(b nn.Block, bind Bind, prefix string, lora *nn.LoRA, in []shapes.Shape) blockCall {
	var k strings.Builder
	fmt.Fprintf(&k, "%s|%s", b.Kind, e.Compute)
	network, _ := split(prefix)
	k.WriteString(bind[network].form())
	if lora != nil {
		fmt.Fprintf(&k, "|lora(%d,%g)", lora.Rank, lora.Scale)
	}
	for _, s := range in {
		fmt.Fprintf(&k, "|%s", s)
	}
	if e.Sites {
		fmt.Fprintf(&k, "|@%s", prefix)
	}
	return blockCall{block: b, prefix: prefix, lora: lora, key: k.String()}
}

// nodesOf builds the block on a graph; lookups are by names relative to the block, recorded in p. It returns the outputs,
// and the parameters by these names.
func (e *Engine) nodesOf(c blockCall, bind Bind, g *graph.Graph, p *program, in []nn.Value) (out []*graph.Node, seen map[string]*graph.Node) {
	seen = map[string]*graph.Node{}
	lookup := func(s nn.Spec) *graph.Node {
		if n, ok := seen[s.Name]; ok {
			return n
		}
		a, err := bind.find(nn.Join(c.prefix, s.Name))
		if err != nil {
			panic(err)
		}
		seen[s.Name] = parameter(g, s.Name, a)
		p.params = append(p.params, s.Name)
		return seen[s.Name]
	}
	b := c.block
	b.Name = ""
	return nodes(nn.NewInline(e.Compute, "", c.lora, lookup).Run(b, in...)), seen
}

// forward returns the block's forward program; it is built (shapes are known) but perhaps not yet compiled.
func (e *Engine) forward(c blockCall, bind Bind, in []shapes.Shape) (*program, error) {
	return e.declare("forward|"+c.key, func(g *graph.Graph, p *program) []*graph.Node {
		out, _ := e.nodesOf(c, bind, g, p, inputNodes(g, in))
		return out
	})
}

// declare builds a program's graph now and compiles it on first use, or in compileAll.
func (e *Engine) declare(key string, fill build) (*program, error) {
	return e.declareFor(nil, key, fill)
}

// declareFor is declare for a program that the devices of a group, unless it is nil, run together, on inputs of their own.
func (e *Engine) declareFor(together *Group, key string, fill build) (*program, error) {
	e.store.mu.Lock()
	p, ok := e.programs[key]
	if !ok {
		p = &program{key: key, name: programName(key), compiled: make(chan struct{})}
		e.programs[key] = p
	}
	e.store.mu.Unlock()
	p.declared.Do(func() {
		p.err = guard(func() error {
			p.graph = graph.NewGraph(e.Backend, p.name)
			if together != nil {
				p.span = together.span
				if err := together.spread(p.graph); err != nil {
					return err
				}
			}
			p.pending = fill(p.graph, p)
			for _, n := range p.pending {
				p.outputs = append(p.outputs, n.Shape())
			}
			return nil
		})
		if p.err != nil {
			p.err = fmt.Errorf("building program %.120s: %w", key, p.err)
		}
	})
	return p, p.err
}

// programName is what profiles call a program: what it does and for which function or block.
func programName(key string) string {
	what, rest, _ := strings.Cut(key, "|")
	of, _, _ := strings.Cut(strings.TrimLeft(rest, "|"), "|")
	name := []byte(what + "_" + of)
	for i, c := range name {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			name[i] = '_'
		}
	}
	return string(name[:min(len(name), 64)])
}

// compileAll declares and compiles programs on all cores, which all such calls share; those that are compiled already
// cost nothing.
func (e *Engine) compileAll(jobs []func() (*program, error)) error {
	var wait sync.WaitGroup
	errs := make([]error, len(jobs))
	for i, declare := range jobs {
		wait.Go(func() {
			e.slots <- struct{}{}
			defer func() { <-e.slots }()
			if errs[i] = e.interrupted(); errs[i] != nil {
				return
			}
			p, err := declare()
			if err == nil {
				err = e.ready(p)
			}
			errs[i] = err
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// planValue stands for a value in a dry walk.
type planValue struct {
	id    int
	shape shapes.Shape
	needs bool // a gradient flows back through it
}

func (v *planValue) Shape() shapes.Shape { return v.shape }

type planner struct {
	e        *Engine
	bind     Bind
	level    nn.Level
	trained  func(scope string) bool // nil when no gradient is wanted
	plan     *plan
	programs map[*program]bool
	err      error
	entries  []planEntry
}

// planEntry is a block that the backward walk will visit.
type planEntry struct {
	call    blockCall
	in, out []*planValue
}

// planRunner walks a function without running it.
type planRunner struct {
	*planner
	prefix string
	lora   *nn.LoRA
}

// inner decides what becomes of a block below a prefix: its scope and adapters, and whether it is taken apart.
func inner(b nn.Block, prefix string, lora *nn.LoRA, granularity nn.Level) (string, *nn.LoRA, bool) {
	if b.LoRA != nil {
		lora = b.LoRA
	}
	if b.Plain {
		lora = nil
	}
	return nn.Join(prefix, b.Name), lora, b.Compose != nil && b.Level > granularity
}

// Run implements nn.Runner.
func (r *planRunner) Run(b nn.Block, in ...nn.Value) []nn.Value {
	prefix, lora, apart := inner(b, r.prefix, r.lora, r.level)
	if apart {
		return b.Compose(&planRunner{planner: r.planner, prefix: prefix, lora: lora}, in)
	}
	args := make([]*planValue, len(in))
	shapesIn := make([]shapes.Shape, len(in))
	needs := false
	for i, v := range in {
		args[i] = v.(*planValue)
		shapesIn[i] = args[i].shape
		r.plan.uses[args[i].id]++
		needs = needs || args[i].needs
	}
	call := r.e.newCall(b, r.bind, prefix, lora, shapesIn)
	p, err := r.e.forward(call, r.bind, shapesIn)
	if err != nil {
		panic(err)
	}
	r.programs[p] = true
	if r.trained != nil {
		for _, name := range p.params {
			if r.trained(nn.Join(prefix, name)) {
				needs = true
				r.plan.visits[call.site()]++
				break
			}
		}
	}
	out := make([]nn.Value, len(p.outputs))
	entry := planEntry{call: call, in: args}
	for i, s := range p.outputs {
		v := &planValue{id: len(r.plan.uses), shape: s, needs: needs}
		r.plan.uses = append(r.plan.uses, 0)
		out[i] = v
		entry.out = append(entry.out, v)
	}
	if needs {
		r.entries = append(r.entries, entry)
	}
	return out
}

// passing is what a walk is for, beside its outputs.
type passing struct {
	updates bool // blocks are updated as the tape is walked back
	through bool // a gradient flows on through the function's first input
}

// planFor walks a function once per key and shapes and compiles every program that it will need, all in parallel: the
// blocks forwards and, for a tape that trains, backwards with their updates.
func (e *Engine) planFor(t *tape, f Function, pass passing, in []*Array) error {
	key := e.key(fmt.Sprintf("plan|%s|%d|%s|%t", t.network, t.level, t.bind.narrow(), pass.through), f.Key, in)
	if t.plan = e.known(key); t.plan != nil {
		return nil
	}
	var trained func(string) bool
	if t.o != nil {
		trained = t.isTrained
	}
	pl := &planner{e: e, bind: t.bind, level: t.level, trained: trained, plan: &plan{visits: map[string]int{}}, programs: map[*program]bool{}}
	values := make([]nn.Value, len(in))
	for i, a := range in {
		values[i] = &planValue{id: i, shape: a.shape, needs: pass.through && i == 0}
		pl.plan.uses = append(pl.plan.uses, 0)
	}
	err := guard(func() error {
		out := f.Body(&planRunner{planner: pl}, values)
		for _, v := range out {
			pl.plan.uses[v.(*planValue).id]++
		}
		pl.plan.loss = out[0].(*planValue).id
		return nil
	})
	if err != nil {
		return fmt.Errorf("planning %.60s: %w", f.Key, err)
	}
	t.plan = pl.plan
	var jobs []func() (*program, error)
	for p := range pl.programs {
		jobs = append(jobs, func() (*program, error) { return p, nil })
	}
	back, err := t.programsBack(pl.entries, pass.updates)
	if err != nil {
		return err
	}
	if err := e.compileAll(append(jobs, back...)); err != nil {
		return err
	}
	e.learn(key, pl.plan)
	return nil
}
