package configs

import "slices"

// Method is what recipes, ladders and plans must know of a way to train a student. Phases name it by their kind. Its computation
// is in a folder of its own below distill/method.
type Method struct {
	Kind string // its name in recipes

	Defaults Phase                                                                                    // what a phase has that its recipe gives no value, beside what all have
	Check    func(c *Recipe, p *Phase, require func(key string, ok bool, format string, args ...any)) // of the keys that are the method's own; may be nil

	Critic  bool // it trains a discriminator against the student, and phases have the keys of one
	Itself  bool // its teacher is the student as the phase finds it, frozen, in place of the stage's teacher
	MakesX0 bool // the student comes to predict x0; such a phase trains the full UNet
	Strides bool // a sample's interval is one of the teacher's steps, anywhere on its grid, in place of one of the student's

	Sampler string // that the student is made for, of package eval/scheduler; "" = the trained one, along the student's grid

	Calls int // network calls without gradients for a sample, beside those of the stage's teacher
}

// Methods are those that a recipe can name. The list may be added to before recipes are read.
var Methods = []Method{
	{Kind: KindMSE, Defaults: adam},
	{Kind: KindAdversarial, Defaults: Phase{Beta2: 0.99}, Critic: true},
	{Kind: KindX0, Defaults: adam, Itself: true, MakesX0: true, Calls: 1},
	{Kind: KindLCM, Defaults: Phase{Beta1: 0.9, Beta2: 0.999, Huber: 0.001, TargetEMA: 0.95}, Strides: true, Calls: 1, Sampler: "lcm", Check: checkLCM},
}

var adam = Phase{Beta1: 0.9, Beta2: 0.999}

// checkLCM checks the keys of consistency distillation.
func checkLCM(c *Recipe, p *Phase, require func(key string, ok bool, format string, args ...any)) {
	require("huber", p.Huber >= 0, "must not be negative, and is %g; 0 takes squares", p.Huber)
	require("target_ema", p.TargetEMA >= 0 && p.TargetEMA < 1, "must be at least 0 and below 1, and is %g; 0 lets the student be its own target", p.TargetEMA)
	if p.TargetEMA > 0 {
		require("target_ema", c.Train.EMA == 0, "must be 0 with train.ema %g: the target network is the average of the student that is kept", c.Train.EMA)
		require("target_ema", c.Train.Offload == OffloadNone && c.Train.Shard == ShardReplicated,
			"is %g, and the target network computes with its average; with it train.offload must be none and train.shard replicated", p.TargetEMA)
	}
	require("guidance_to", p.GuidanceTo >= 0, "must not be negative, and is %g; 0 takes the stage's guidance for every sample", p.GuidanceTo)
}

// MethodOf returns the method of a kind of phase. The method of a merge, which trains nothing, and of an unknown kind is the zero
// Method.
func MethodOf(kind string) Method {
	if i := slices.IndexFunc(Methods, func(m Method) bool { return m.Kind == kind }); i >= 0 {
		return Methods[i]
	}
	return Method{}
}

// Kinds are those that a phase can have.
func Kinds() []string {
	out := []string{}
	for _, m := range Methods {
		out = append(out, m.Kind)
	}
	return append(out, KindMerge)
}

// Method is the phase's.
func (p *Phase) Method() Method { return MethodOf(p.Kind) }
