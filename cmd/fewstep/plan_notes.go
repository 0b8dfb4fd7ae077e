package main

import (
	"fewstep/configs"
	"fmt"
)

// recipeNotes tells what a recipe asks for beyond the paper's method, as far as the table of phases does not show it.
func recipeNotes(c *configs.Recipe) (notes []string) {
	note := func(ok bool, format string, args ...any) {
		if ok {
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	note(c.Data.Buckets.List != configs.BucketsNone, "data: in buckets (%s); memory and operations are those of the largest, %v", c.Data.Buckets.List, c.Data.Largest())
	note(c.Data.Dropout > 0, "data: a sample has no text with probability %g", c.Data.Dropout)
	note(c.Data.Posterior == configs.PosteriorSample, "data: latents are drawn from the VAE's posterior for every sample")
	note(c.Data.Conditions == configs.ConditionsTarget, "data: the networks are told the sizes of an uncropped image, whatever a sample's were")
	d := c.Discriminator
	note(c.Lineage == configs.LineageContinued, "lineage: full phases go on from the full model of the stage before, not from base and LoRA")
	note(d.Features == configs.FeaturesLevels, "discriminator: a head on every down block's features beside the mid block's")
	note(!d.CarryBackbone, "discriminator: new in every phase")
	note(d.CarryOptimizer, "discriminator: its optimizer's state is carried from phase to phase of a stage")
	note(d.R1 > 0, "discriminator: approximate R1 of weight %g at σ = %g", d.R1, d.R1Sigma)
	note(c.Train.EMA > 0, "student: a phase's result is its average, decay %g per update", c.Train.EMA)
	for i := range c.Stages {
		for _, p := range c.Stages[i].Phases {
			where := c.Stages[i].Name + "/" + p.Name
			until, within := "", "of its samples"
			if p.WarmupAccuracy > 0 {
				until = fmt.Sprintf(" or a paired accuracy of %g over %d", p.WarmupAccuracy, d.GateWindow)
			}
			if p.CountStudent {
				within = "before its samples"
			}
			note(p.WarmupDiscriminator > 0, "%s: the discriminator alone until %d samples%s, %s", where, p.WarmupDiscriminator, until, within)
			note(p.Gate > 0, "%s: the student moves while the paired accuracy over %d samples is at least %g", where, d.GateWindow, p.Gate)
			note(p.DiscriminatorWeightDecay > 0, "%s: weight decay %g of the discriminator", where, p.DiscriminatorWeightDecay)
			note(p.TargetEMA > 0, "%s: learns from an average of itself, decay %g per update", where, p.TargetEMA)
			note(p.GuidanceTo > 0, "%s: the teacher's guidance is drawn from %g to %g", where, c.Stages[i].Guidance, p.GuidanceTo)
			note(p.ClosedForm > 0, "%s: conv_out starts from a ridge regression over %d samples", where, p.ClosedForm)
		}
	}
	return notes
}
