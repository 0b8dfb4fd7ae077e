package configs

import (
	"slices"
	"testing"
)

// What may differ is what the tags say, and nothing has a tag of another name.
func TestMayDiffer(t *testing.T) {
	for tag, want := range map[Differs][]string{
		Always: {"train.shard", "train.offload", "train.checkpoint_minutes", "train.checkpoint_samples", "train.keep_checkpoints"},
		Fork:   {"name", "model", "data.source", "discriminator.collapse_window", "discriminator.collapse_loss", "discriminator.collapse_accuracy", "eval"},
		Rate:   {"lr", "discriminator_lr", "decay", "weight_decay", "discriminator_weight_decay", "warmup_discriminator", "gate"},
	} {
		if got := MayDiffer(tag); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", tag, got, want)
		}
	}
	c := mustParse(t, minimal)
	out := c.Without(Always, Fork)
	if out.Name != "" || out.Data.Source != "" || out.Data.Resolution == 0 || out.Eval.Samples != 0 || out.Train.Shard != "" || out.Train.Batch == 0 || out.Discriminator.CollapseLoss != 0 {
		t.Errorf("%+v", out)
	}
	if c.Name == "" || c.Eval.Samples == 0 {
		t.Error("the original changed")
	}
}
