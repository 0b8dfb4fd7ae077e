package nn

import (
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Inline is the Runner that adds blocks to the graph being built. Its values are *graph.Node.
type Inline struct {
	scope *Scope
}

// NewInline builds below prefix with the given compute dtype and adapters.
func NewInline(compute dtypes.DType, prefix string, lora *LoRA, lookup Lookup) *Inline {
	return &Inline{scope: NewScope(compute, prefix, lora, lookup)}
}

// Run implements Runner.
func (r *Inline) Run(b Block, in ...Value) []Value {
	s := r.scope.Sub(b.Name)
	if b.LoRA != nil {
		s.lora = b.LoRA
	}
	if b.Plain {
		s.lora = nil
	}
	if b.Compose != nil {
		return b.Compose(&Inline{scope: s}, in)
	}
	nodes := make([]*graph.Node, len(in))
	for i, v := range in {
		nodes[i] = v.(*graph.Node)
	}
	out := b.Build(s, nodes)
	values := make([]Value, len(out))
	for i, n := range out {
		values[i] = n
	}
	return values
}
