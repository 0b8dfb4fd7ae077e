package configs

// Default returns the paper's settings; what the paper leaves open has the
// value that the method's description chooses. Model and Data.Source are
// empty: every recipe must name them.
func Default() *Recipe {
	return &Recipe{
		Name: "lightning",
		Seed: 1,
		Data: Data{
			Resolution:  1024,
			Buckets:     Buckets{List: BucketsNone, Least: 256, Most: 2048, Step: 64, Own: []string{}},
			Small:       SmallEnlarge,
			Conditions:  ConditionsSample,
			Captions:    Captions{Fine: 1},
			Posterior:   PosteriorMean,
			EncodeAhead: 16,
			MaxBad:      100,
		},
		Train: Train{
			Batch:             512,
			Accumulate:        1,
			Compute:           "bf16",
			Granularity:       "layer",
			Frozen:            "f32",
			Moments:           "f32",
			Reduce:            "f32",
			Shard:             ShardReplicated,
			Offload:           OffloadNone,
			CheckpointMinutes: 30,
			KeepCheckpoints:   2,
			AdamEpsilon:       1e-8,
		},
		LoRA: LoRA{Rank: 64, Alpha: 8},
		Discriminator: Discriminator{
			Target:           TargetFull,
			Features:         FeaturesMid,
			HeadGroups:       32,
			CarryBackbone:    true,
			R1Sigma:          0.01,
			GateWindow:       1024,
			CollapseWindow:   51200,
			CollapseLoss:     0.01,
			CollapseAccuracy: 0.999,
		},
		Lineage: LineageMerged,
		Eval: Eval{
			Samples:      10000,
			Batch:        16,
			Guidance:     6,
			TeacherSteps: 32,
			Steps:        []int{8, 4, 2, 1},
			SheetPrompts: []string{},
			SheetSamples: 16,
			Seed:         1,
			Convention:   "mini-clip",
			Rivals:       []string{},
			Bootstrap:    200,
		},
		Stages: Lightning(),
	}
}

// phaseSamples is the default length of a phase, 1,000 updates of the paper's
// global batch; the paper gives no lengths.
const phaseSamples = 512_000

// Lightning returns the paper's ladder (3.6, 3.7): 128 → 32 by MSE with
// guidance 6, then adversarially 32 → 8 → 4 → 2 → 1, the last as x0-prediction.
func Lightning() []Stage {
	return []Stage{
		{
			Name: "32", Loss: LossMSE, TeacherSteps: 128, StudentSteps: 32, Guidance: 6,
			Phases: []Phase{
				msePhase("mse-lora", TargetLoRA), mergePhase(), msePhase("mse-full", TargetFull),
			},
		},
		{Name: "8", Loss: LossAdversarial, TeacherSteps: 32, StudentSteps: 8, Phases: adversarialPhases(TeacherStage)},
		{Name: "4", Loss: LossAdversarial, TeacherSteps: 8, StudentSteps: 4, Phases: adversarialPhases(TeacherStage)},
		{Name: "2", Loss: LossAdversarial, TeacherSteps: 4, StudentSteps: 2, SkipTeacherSteps: 8, Phases: adversarialPhases(TeacherSkip)},
		{
			Name: "1", Loss: LossAdversarial, TeacherSteps: 2, StudentSteps: 1, SkipTeacherSteps: 4,
			NoiseLevels: []int{10, 250, 500, 750}, NoiseWeights: []float64{1, 1, 1, 1},
			Phases: []Phase{
				{
					Name: "x0", Kind: KindX0, Target: TargetFull, Teacher: TeacherStage,
					Samples: phaseSamples, LR: 1e-5, Decay: DecayConstant, Beta1: 0.9, Beta2: 0.999,
				},
				adversarialPhase("full-cond", TargetFull, FormConditional, TeacherStage, 5e-7),
				stable(adversarialPhase("full-uncond", TargetFull, FormUnconditional, TeacherSkip, 5e-7)),
			},
		},
	}
}

// adversarialPhases is the sequence of a stage with a LoRA; its unconditional
// phases have the teacher given.
func adversarialPhases(unconditional string) []Phase {
	return []Phase{
		adversarialPhase("lora-cond", TargetLoRA, FormConditional, TeacherStage, 1e-6),
		adversarialPhase("lora-uncond", TargetLoRA, FormUnconditional, unconditional, 1e-6),
		mergePhase(),
		adversarialPhase("full-uncond", TargetFull, FormUnconditional, unconditional, 5e-7),
	}
}

func adversarialPhase(name, target, form, teacher string, rate float64) Phase {
	return Phase{
		Name: name, Kind: KindAdversarial, Target: target, Form: form, Teacher: teacher,
		Samples: phaseSamples, LR: rate, Decay: DecayConstant, Beta1: 0, Beta2: 0.99,
	}
}

func msePhase(name, target string) Phase {
	return Phase{
		Name: name, Kind: KindMSE, Target: target, Teacher: TeacherStage,
		Samples: phaseSamples, LR: 1e-5, Decay: DecayConstant, Beta1: 0.9, Beta2: 0.999,
	}
}

func mergePhase() Phase {
	return Phase{Name: "merge", Kind: KindMerge, Target: TargetFull, Teacher: TeacherStage, Decay: DecayConstant}
}

// stable gives a phase the noise weights for training that is already stable.
func stable(p Phase) Phase {
	p.NoiseWeights = []float64{5, 1, 1, 1}
	return p
}
