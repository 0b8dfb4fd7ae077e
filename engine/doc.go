// Package engine runs networks written against nn.Runner on a device: it loads parameters, compiles programs once, evaluates
// functions, and takes optimizer steps.
//
//	e := engine.New(backend, dtypes.Float32, nn.Network)
//	params, err := e.LoadFunc(specs, value, trained)            // a network's parameters on the device
//	out, err := e.Call(f, engine.Bind{"unet": params}, x, t)    // f without gradients
//	o, err := e.NewOptimizer(engine.Adam{Beta2: 0.999}, params)
//	res, err := e.Train(loss, bind, "unet", o, step, x, t)      // f's first output is differentiated, params are updated
//
// Calls queue work and return; [Engine.Floats] and [Result.Norm2] wait for it.
//
// # Programs
//
// A program is a graph that was compiled for its shapes and dtypes. Equal keys mean equal programs, so that a block of a kind is
// compiled once however often a network has it; the engines of all devices share one store. Where a program's arguments are
// more than a function's inputs they lie in named groups (arguments.go).
//
// # Granularity
//
// At [nn.Network] a whole function, forward, loss, gradient and update, is one program and nothing is computed twice: best for
// small models and CPUs. At [nn.Stage] and [nn.Layer] the function is walked block by block on a tape that keeps the blocks'
// inputs (tape.go). The walk back computes each block again and updates its parameters on the spot (walkback.go), so that no
// gradient of a whole network exists: what SDXL needs. With [Engine.Split] an update at granularity network is a small program
// for each tensor (split.go).
//
// # Updates
//
// An optimizer's step is one graph (update.go) that stands alone, in a walk back, or behind a gradient in its program. A step
// whose gradient is not finite changes nothing, which the device finds out itself.
//
// # Where state lies
//
// Frozen weights may be kept in bf16 (frozen.go), moments in bf16 with stochastic rounding (moments.go), an optimizer's state in
// the host's memory (offload.go) or dealt out over the devices of a [Group] (shard.go). The devices of a group go through the
// same calls, each on its part of a batch, and add up their gradients (reduce.go), over several processes by XLA's collectives
// or through their hosts' memory (hosts.go).
//
// # Devices that compute nothing
//
// [Dry] makes an engine whose arrays have no content: the same calls then tell what memory they would take (dry.go,
// account.go). [Engine.Ahead] compiles what a function would run before it is run (ahead.go).
package engine
