package method

import (
	"fewstep/configs"
	"fewstep/engine"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// Levels are the granularities by their names in a recipe.
var Levels = map[string]nn.Level{"network": nn.Network, "stage": nn.Stage, "layer": nn.Layer}

// ComputeTypes are the compute types by their names in a recipe.
var ComputeTypes = map[string]dtypes.DType{"f32": dtypes.Float32, "bf16": dtypes.BFloat16}

// Set gives an engine a recipe's settings; split is [engine.Engine.Split], where the granularity has it.
func Set(e *engine.Engine, t configs.Train, split bool) *engine.Engine {
	e.Compute, e.Granularity, e.Calls, e.Frozen = ComputeTypes[t.Compute], Levels[t.Granularity], Levels[t.CallGranularity()], ComputeTypes[t.Frozen]
	e.Split, e.Shard = split && e.Granularity == nn.Network, t.Shard == configs.ShardSharded
	if t.Offload == configs.OffloadOptimizer {
		e.Offload = engine.OffloadFrom
	}
	return e
}
