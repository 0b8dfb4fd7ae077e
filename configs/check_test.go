package configs

import (
	"strings"
	"testing"
)

func TestValidateRules(t *testing.T) {
	if err := mustParse(t, minimal).Validate(); err != nil {
		t.Fatal(err)
	}
	for override, key := range map[string]string{
		"name=a b": "name", "model=''": "model", "data.source=''": "data.source", "data.resolution=60": "data.resolution", "data.max_bad=-1": "data.max_bad",
		"data.buckets.list=x": "data.buckets.list", "data.buckets={list: own, own: []}": "data.buckets.own", "data.buckets={list: own, own: [12x12x]}": "data.buckets.own[0]",
		"data.buckets={list: own, own: [64x72, 64x72]}": "data.buckets.own[1]", "data.buckets={list: own, own: [60x64]}": "data.buckets", "data.buckets.own=[64x64]": "data.buckets.own",
		"data.buckets={list: kohya, step: 0}": "data.buckets", "data.small=x": "data.small", "data.conditions=x": "data.conditions", "data.posterior=x": "data.posterior",
		"data.dropout=1": "data.dropout", "data.encode_ahead=-1": "data.encode_ahead",
		"data.captions.kind=0.5": "data.captions", "train.batch=0": "train.batch", "train.accumulate=0": "train.accumulate", "train.compute=f16": "train.compute",
		"train.granularity=block": "train.granularity", "train.checkpoint_minutes=-1": "train.checkpoint_minutes", "train.checkpoint_samples=-1": "train.checkpoint_samples",
		"train.keep_checkpoints=1": "train.keep_checkpoints", "train.ema=1": "train.ema", "train.clip_norm=-1": "train.clip_norm",
		"train.adam_epsilon=0": "train.adam_epsilon", "lora.rank=0": "lora.rank", "lora.alpha=0": "lora.alpha", "discriminator.head_channels=-1": "discriminator.head_channels",
		"discriminator={head_channels: 40, head_groups: 32}": "discriminator.head_groups", "discriminator.gate_window=0": "discriminator.gate_window",
		"discriminator.collapse_window=-1": "discriminator.collapse_window", "discriminator.collapse_loss=-1": "discriminator.collapse_loss",
		"discriminator.collapse_accuracy=2": "discriminator.collapse_accuracy", "eval.samples=1": "eval.samples", "eval.batch=0": "eval.batch", "eval.guidance=-1": "eval.guidance",
		"eval.teacher_steps=0": "eval.teacher_steps", "eval.steps=[0]": "eval.steps", "eval.sheet_samples=-1": "eval.sheet_samples", "eval.bootstrap=-1": "eval.bootstrap", "eval.bootstrap=4": "eval.bootstrap", "eval.samples=3": "eval.samples",
		"eval.convention=fid": "eval.convention", "stages.8.name=a.b": "stages[1].name", "stages.8.loss=l2": "stages.8.loss", "stages.8.student_steps=0": "stages.8.student_steps",
		"stages.8.teacher_steps=12": "stages.8.teacher_steps", "stages.8.skip_teacher_steps=8": "stages.8.skip_teacher_steps", "stages.8.guidance=-1": "stages.8.guidance",
		"stages.8.timesteps=[0]": "stages.8.timesteps", "stages.8.timesteps=[5, 5]": "stages.8.timesteps", "stages.8.noise_levels=[0]": "stages.8.noise_levels",
		"stages.1.noise_weights=[1, 2]": "stages.1.noise_weights", "stages.1.noise_weights=[0, 0, 0, 0]": "stages.1.noise_weights",
		"stages.8.phases.merge.samples=5": "stages.8.phases.merge.samples", "stages.8.phases.lora-cond.kind=l2": "stages.8.phases.lora-cond.kind",
		"stages.8.phases.lora-cond.target=half": "stages.8.phases.lora-cond.target", "stages.8.phases.lora-cond.teacher=none": "stages.8.phases.lora-cond.teacher",
		"stages.8.phases.lora-cond.decay=cosine": "stages.8.phases.lora-cond.decay", "stages.8.phases.lora-cond.samples=0": "stages.8.phases.lora-cond.samples",
		"stages.8.phases.lora-cond.lr=0": "stages.8.phases.lora-cond.lr", "stages.8.phases.lora-cond.discriminator_lr=-1": "stages.8.phases.lora-cond.discriminator_lr",
		"stages.8.phases.lora-cond.beta1=1": "stages.8.phases.lora-cond.beta1", "stages.8.phases.lora-cond.beta2=-1": "stages.8.phases.lora-cond.beta2",
		"stages.8.phases.lora-cond.weight_decay=-1": "stages.8.phases.lora-cond.weight_decay", "stages.8.phases.lora-cond.gate=1.5": "stages.8.phases.lora-cond.gate",
		"stages.8.phases.lora-cond.warmup_discriminator=512000":                      "stages.8.phases.lora-cond.warmup_discriminator",
		"stages.8.phases.lora-cond.discriminator_weight_decay=-1":                    "stages.8.phases.lora-cond.discriminator_weight_decay",
		"stages.8.phases.lora-cond={count_student: true, warmup_discriminator: -1}":  "stages.8.phases.lora-cond.warmup_discriminator",
		"stages.8.phases.lora-cond={count_student: true, gate: 0.5}":                 "stages.8.phases.lora-cond.gate must be 0 with count_student",
		"stages.8.phases.lora-cond={warmup_accuracy: 2, warmup_discriminator: 4096}": "stages.8.phases.lora-cond.warmup_accuracy",
		"stages.8.phases.lora-cond.warmup_accuracy=0.6":                              "discriminator.gate_window 1024",
		"discriminator.features=all":                                                 "discriminator.features", "discriminator.r1=-1": "discriminator.r1", "discriminator.r1_sigma=0": "discriminator.r1_sigma",
		"stages.1.phases.x0.closed_form=-1": "stages.1.phases.x0.closed_form", "stages.8.phases.lora-cond.closed_form=64": "stages.8.phases.lora-cond.closed_form",
		"discriminator={carry_optimizer: true, carry_backbone: false}": "discriminator.carry_optimizer",
		"stages.8.phases.lora-cond.noise_weights=[1]":                  "stages.8.phases.lora-cond.noise_weights",
		"stages.8.phases.lora-cond.form=both":                          "stages.8.phases.lora-cond.form",
	} {
		c := mustParse(t, minimal)
		if err := c.Set(override); err != nil {
			t.Error(err)
			continue
		}
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: error %v does not name %s", override, err, key)
		}
	}
}

func TestCheckTimesteps(t *testing.T) {
	c := mustParse(t, minimal)
	err := c.CheckTimesteps(100)
	for _, want := range []string{"stages.1 has the timestep 250", "stages.32 has a teacher of 128 steps"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	c.Eval.Steps = []int{200}
	if err := c.CheckTimesteps(100); !strings.Contains(err.Error(), "eval.steps has 200 steps") {
		t.Error(err)
	}
}

// In buckets every micro-batch must begin a batch of the order.
func TestBucketsWantWholeBatches(t *testing.T) {
	c := mustParse(t, minimal)
	c.Data.Buckets.List = BucketsSDXL
	c.Train.Batch = 300
	err := c.Validate()
	if err == nil || !strings.Contains(err.Error(), "stages.8.phases.lora-cond.samples and its warmup_discriminator must be multiples of train.batch 300") {
		t.Error(err)
	}
	c.Train.Batch = 512
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if shapes, err := c.Data.Shapes(); err != nil || len(shapes) != 40 || c.Data.Largest().Width*c.Data.Largest().Height != 512*2048 {
		t.Error(len(shapes), c.Data.Largest(), err)
	}
	c.Data.Buckets.List = BucketsKohya
	if shapes, err := c.Data.Shapes(); err != nil || len(shapes) < 20 {
		t.Error(len(shapes), err)
	}
}
