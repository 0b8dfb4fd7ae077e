package main

import (
	"context"

	"fewstep/distill"
	"fewstep/train"
)

// afterPhase is what a run does with each finished artifact.
func (a *app) afterPhase(ctx context.Context, r *train.Run, step distill.Step) error {
	return nil
}
