package cost

import (
	"fmt"
	"sync"

	"fewstep/model/nn"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
)

// traces are the parameters of networks by all that they depend on: advice asks for the same few hundreds of times.
var traces = struct {
	sync.Mutex
	known map[string][]nn.Spec
}{known: map[string][]nn.Spec{}}

// trace lists a network's parameters; lora are the adapters somewhere in it, and parts the kinds of its blocks where its
// own does not tell them.
func trace(b compute.Backend, block nn.Block, lora *nn.LoRA, in []shapes.Shape, parts ...string) ([]nn.Spec, error) {
	key := fmt.Sprint(block.Kind, parts, in)
	if lora != nil {
		key += fmt.Sprint(*lora)
	}
	traces.Lock()
	defer traces.Unlock()
	if specs, ok := traces.known[key]; ok {
		return specs, nil
	}
	specs, err := nn.Trace(b, block, in...)
	if err == nil {
		traces.known[key] = specs
	}
	return specs, err
}
