package configs

// Recipe is everything a run depends on besides the machine. Its
// YAML form is loaded by [Load], checked by [Recipe.Validate] and written in
// full by [Recipe.Resolved].
type Recipe struct {
	Name          string        `yaml:"name" differs:"fork"`  // name of the run, shown in reports and export metadata
	Seed          uint64        `yaml:"seed"`                 // all randomness derives from it
	Model         string        `yaml:"model" differs:"fork"` // diffusers directory of the base model
	Data          Data          `yaml:"data"`                 // captioned images
	Train         Train         `yaml:"train"`                // how the loop runs
	LoRA          LoRA          `yaml:"lora"`                 // shape of the adapters
	Discriminator Discriminator `yaml:"discriminator"`        // its head, and what is carried between phases
	Lineage       string        `yaml:"lineage"`              // what a stage's full phases start from: merged = base and LoRA, or continued = the full model of the stage before
	Eval          Eval          `yaml:"eval" differs:"fork"`  // what is measured after a stage
	Stages        []Stage       `yaml:"stages"`               // the ladder, in order

	file    string            // that it was read from; see Locate
	retired []string          // keys that were read and do nothing; see Retired
	given   map[string]string // what gave the values that are not defaults; see Provenance
}

// Data says where the captioned images come from.
type Data struct {
	Source      string   `yaml:"source" differs:"fork"` // parquet file, WebDataset pattern, folder or s3:// address
	Resolution  int      `yaml:"resolution"`            // side of the square images in pixels, a multiple of 8
	Buckets     Buckets  `yaml:"buckets"`               // shapes beside the square
	Small       string   `yaml:"small"`                 // images smaller than their shape: enlarge (they are counted), or drop = leave them out
	Conditions  string   `yaml:"conditions"`            // sizes that the UNet is told: sample = of the image, its crop and its shape, or target = an uncropped image of its shape
	Captions    Captions `yaml:"captions"`              // which of an image's captions is used
	Dropout     float64  `yaml:"dropout"`               // probability that a sample has no text: zero embeddings, as guidance's empty prompt
	Posterior   string   `yaml:"posterior"`             // latents: mean of the VAE's posterior, or sample = drawn from it for every sample
	EncodeAhead float64  `yaml:"encode_ahead"`          // GiB of latents, and of text, that a run encodes before it trains; more is encoded while it trains
	MaxBad      int      `yaml:"max_bad"`               // undecodable images tolerated before the run stops
	VAETile     int      `yaml:"vae_tile"`              // encode in overlapping tiles of this side in pixels, as 512, where memory is short; 0 = whole
}

// Buckets are the shapes that images are trained in, so that little of them is
// cut off. A micro-batch is of one shape.
type Buckets struct {
	List  string   `yaml:"list"`  // none = squares, kohya = all shapes of about the square's area, sdxl = SDXL's own, own = those of the key own
	Least int      `yaml:"least"` // shortest side of kohya's shapes in pixels
	Most  int      `yaml:"most"`  // longest side of kohya's shapes in pixels
	Step  int      `yaml:"step"`  // of which the sides of kohya's shapes are multiples, in pixels
	Own   []string `yaml:"own"`   // width and height in pixels, as 832x1216
}

// Captions holds the probabilities of an image's captions, by how much of the
// image they tell; they add up to 1.
type Captions struct {
	Fine   float64 `yaml:"fine"`   // the image's own caption
	Kind   float64 `yaml:"kind"`   // its kind of object, shared by similar images
	Coarse float64 `yaml:"coarse"` // its group, shared by many images
}

// Train holds the settings of the training loop.
type Train struct {
	Batch             int     `yaml:"batch"`                               // samples of one micro-batch, over all devices
	Accumulate        int     `yaml:"accumulate"`                          // micro-batches of one optimizer update
	Compute           string  `yaml:"compute"`                             // arithmetic, f32 or bf16; master weights are f32
	Granularity       string  `yaml:"granularity"`                         // size of a compiled block: network, stage or layer
	Calls             string  `yaml:"calls"`                               // the same for calls without gradients, at least as coarse; left out = as granularity
	Frozen            string  `yaml:"frozen"`                              // how weights that a phase does not train are kept: f32, or bf16 below granularity network
	Moments           string  `yaml:"moments"`                             // how Adam's moments are kept: f32, or bf16 with stochastic rounding
	Reduce            string  `yaml:"reduce"`                              // how gradients are added up over several devices: f32, or bf16 for half the traffic
	Shard             string  `yaml:"shard" differs:"always"`              // of several devices: replicated, or sharded = each keeps the optimizer state of its part of the weights
	Offload           string  `yaml:"offload" differs:"always"`            // what is kept in the host's memory in place of the device's: none, or optimizer = its state, below granularity network
	CheckpointMinutes float64 `yaml:"checkpoint_minutes" differs:"always"` // save after this long; 0 = not by time
	CheckpointSamples int64   `yaml:"checkpoint_samples" differs:"always"` // save after this many samples; 0 = not by samples
	KeepCheckpoints   int     `yaml:"keep_checkpoints" differs:"always"`   // complete checkpoints kept, at least 2
	EMA               float64 `yaml:"ema"`                                 // decay per update of the averaged student; 0 = off
	ClipNorm          float64 `yaml:"clip_norm"`                           // largest global gradient norm; 0 = off
	AdamEpsilon       float64 `yaml:"adam_epsilon"`                        // Adam's ε
}

// LoRA is the shape of the adapters. The scale is Alpha / Rank.
type LoRA struct {
	Rank  int     `yaml:"rank"`  // inner dimension
	Alpha float64 `yaml:"alpha"` // numerator of the scale
}

// Discriminator holds what the paper leaves open about it (3.3), and when its
// collapse is reported.
type Discriminator struct {
	Target           string  `yaml:"target"`                           // what of its backbone is trained: full, or lora = adapters over the frozen base
	Features         string  `yaml:"features"`                         // what of its backbone has a head: mid, or levels = every down block, too
	HeadChannels     int     `yaml:"head_channels"`                    // width of the head's convolutions; 0 = that of its features
	HeadGroups       int     `yaml:"head_groups"`                      // groups of its GroupNorm; 0 = those of the UNet
	CarryBackbone    bool    `yaml:"carry_backbone"`                   // keep it from phase to phase within a stage
	CarryOptimizer   bool    `yaml:"carry_optimizer"`                  // keep Adam's state of what is carried, too
	R1               float64 `yaml:"r1"`                               // weight λ of an approximate R1 penalty, λ·(ℓ(x) − ℓ(x + σ·noise))² of real samples; 0 = none
	R1Sigma          float64 `yaml:"r1_sigma"`                         // its σ; real R1 of weight γ is about λ = γ/(2σ²)
	GateWindow       int64   `yaml:"gate_window"`                      // samples over which gate and warmup_accuracy average the paired accuracy
	CollapseWindow   int64   `yaml:"collapse_window" differs:"fork"`   // samples in a row that count as a collapse; 0 = do not watch
	CollapseLoss     float64 `yaml:"collapse_loss" differs:"fork"`     // a discriminator loss below this ...
	CollapseAccuracy float64 `yaml:"collapse_accuracy" differs:"fork"` // ... with an accuracy of at least this is collapsed
}

// Eval says what is sampled and measured.
type Eval struct {
	Samples      int      `yaml:"samples"`       // images per row of the report
	Batch        int      `yaml:"batch"`         // images sampled at once
	Guidance     float64  `yaml:"guidance"`      // of the undistilled teacher's rows
	TeacherSteps int      `yaml:"teacher_steps"` // of the teacher's reference row
	Steps        []int    `yaml:"steps"`         // step counts measured, undistilled and distilled
	SheetPrompts []string `yaml:"sheet_prompts"` // captions of the sample sheets; empty = from the data
	SheetSamples int      `yaml:"sheet_samples"` // images on a sheet
	Seed         uint64   `yaml:"seed"`          // of the starting noise
	Convention   string   `yaml:"convention"`    // of the metrics in a run's own report: mini-clip; "fewstep eval" knows others
	Inception    string   `yaml:"inception"`     // weights of an independent network for a second distance, a file or nsfwjs-inception; "" or not there = none
	Rivals       []string `yaml:"rivals"`        // directories of other runs whose models stand in the report beside this one's
	Bootstrap    int      `yaml:"bootstrap"`     // resamples behind an interval; 0 = no intervals
}

// Values of Stage.Loss, Phase.Kind, Phase.Target, Phase.Form, Phase.Teacher,
// Discriminator.Features, Recipe.Lineage, Train.Shard, Train.Offload and
// Phase.Decay.
const (
	LossMSE         = "mse"         // (16)
	LossAdversarial = "adversarial" // (20), (21)

	KindMSE         = "mse"         // train by (16)
	KindAdversarial = "adversarial" // train by (20), (21)
	KindMerge       = "merge"       // merge the LoRA into the base; nothing is trained
	KindX0          = "x0"          // convert to x0-prediction by (29)
	KindLCM         = "lcm"         // consistency distillation

	TargetLoRA = "lora" // train the adapters
	TargetFull = "full" // train the whole UNet (of the discriminator: its whole backbone)

	FormConditional   = "conditional"   // (22)
	FormUnconditional = "unconditional" // (23)

	FeaturesMid    = "mid"    // the mid block's, as in the paper
	FeaturesLevels = "levels" // and every down block's

	TeacherStage = "stage" // the stage's teacher
	TeacherSkip  = "skip"  // the stage's skip-level teacher

	LineageMerged    = "merged"    // full phases start from base and LoRA, merged
	LineageContinued = "continued" // full phases start from the full model of the stage before

	ShardReplicated = "replicated"
	ShardSharded    = "sharded" // moments, average and f32 masters of a trained tensor lie on one of the devices

	OffloadNone      = "none"
	OffloadOptimizer = "optimizer" // the trained weights' moments and average are kept in the host's memory

	DecayConstant = "constant"
	DecayLinear   = "linear" // to zero at the end of the phase
)

// Stage teaches a student of StudentSteps what a teacher does in TeacherSteps.
type Stage struct {
	Name             string    `yaml:"name"`               // names its folder and artifacts, and addresses it in --set
	Loss             string    `yaml:"loss"`               // adversarial, or mse for a stage without a discriminator
	TeacherSteps     int       `yaml:"teacher_steps"`      // M, made by an earlier stage; the first stage's is the base
	StudentSteps     int       `yaml:"student_steps"`      // N
	Guidance         float64   `yaml:"guidance"`           // classifier-free guidance of the teacher; 0 = none
	SkipTeacherSteps int       `yaml:"skip_teacher_steps"` // M of the skip-level teacher; 0 = none
	Timesteps        []int     `yaml:"timesteps"`          // where the student trains; empty = its grid, {T/4 .. T} for N <= 2
	NoiseLevels      []int     `yaml:"noise_levels"`       // t* at which the discriminator sees samples; empty = as they are
	NoiseWeights     []float64 `yaml:"noise_weights"`      // of the levels; empty = equal
	Phases           []Phase   `yaml:"phases"`             // in order
}

// Phase is one stretch of training with one objective, or a merge.
type Phase struct {
	Name                     string    `yaml:"name"`                                      // names it in logs, and addresses it in --set
	Kind                     string    `yaml:"kind"`                                      // mse, adversarial, merge, x0 or lcm
	Target                   string    `yaml:"target"`                                    // what is trained: lora or full
	Form                     string    `yaml:"form"`                                      // discriminator: conditional or unconditional; empty otherwise
	Teacher                  string    `yaml:"teacher"`                                   // whose outputs are real: stage or skip
	Samples                  int64     `yaml:"samples"`                                   // length, rounded up to whole updates
	LR                       float64   `yaml:"lr" differs:"rate"`                         // learning rate of the student
	DiscriminatorLR          float64   `yaml:"discriminator_lr" differs:"rate"`           // learning rate of the discriminator; 0 = lr
	Decay                    string    `yaml:"decay" differs:"rate"`                      // of both rates over the phase: constant or linear
	Beta1                    float64   `yaml:"beta1"`                                     // Adam's first moment; 0 = none is kept
	Beta2                    float64   `yaml:"beta2"`                                     // Adam's second moment
	WeightDecay              float64   `yaml:"weight_decay" differs:"rate"`               // decoupled, of the student
	DiscriminatorWeightDecay float64   `yaml:"discriminator_weight_decay" differs:"rate"` // decoupled weight decay of the discriminator
	WarmupDiscriminator      int64     `yaml:"warmup_discriminator" differs:"rate"`       // first samples in which only the discriminator moves; 0 = off
	WarmupAccuracy           float64   `yaml:"warmup_accuracy"`                           // paired accuracy that ends the warm-up earlier; 0 = none does
	CountStudent             bool      `yaml:"count_student"`                             // samples counts the student's updates only; the warm-up comes before them
	Gate                     float64   `yaml:"gate" differs:"rate"`                       // least paired accuracy at which the student moves; 0 = off
	NoiseWeights             []float64 `yaml:"noise_weights"`                             // of the stage's levels in this phase; empty = the stage's
	Huber                    float64   `yaml:"huber"`                                     // c of the pseudo-Huber loss of an lcm phase, √(d² + c²) − c; 0 = d²
	TargetEMA                float64   `yaml:"target_ema"`                                // decay per update of an lcm phase's target network, an average of the student; 0 = the student itself
	GuidanceTo               float64   `yaml:"guidance_to"`                               // of an lcm phase's teacher, drawn for each sample between the stage's and this; 0 = the stage's
	ClosedForm               int64     `yaml:"closed_form"`                               // samples of the ridge regression that conv_out starts from in an x0 phase; 0 = from what predicts ε
}

// GlobalBatch is the number of samples of one optimizer update.
func (t Train) GlobalBatch() int { return t.Batch * t.Accumulate }

// CallGranularity is the granularity of calls without gradients.
func (t Train) CallGranularity() string {
	if t.Calls == "" {
		return t.Granularity
	}
	return t.Calls
}

// Scale is the factor of the adapters' product, Alpha / Rank.
func (l LoRA) Scale() float64 { return l.Alpha / float64(l.Rank) }

// StudentRate returns the learning rate of the student after done of total
// samples of the phase.
func (p *Phase) StudentRate(done, total int64) float64 { return p.LR * p.decay(done, total) }

// DiscriminatorRate is the same for the discriminator.
func (p *Phase) DiscriminatorRate(done, total int64) float64 {
	if p.DiscriminatorLR > 0 {
		return p.DiscriminatorLR * p.decay(done, total)
	}
	return p.StudentRate(done, total)
}

func (p *Phase) decay(done, total int64) float64 {
	if p.Decay != DecayLinear || total <= 0 {
		return 1
	}
	return max(0, 1-float64(done)/float64(total))
}

// Trains reports whether the phase consumes samples.
func (p *Phase) Trains() bool { return p.Kind != KindMerge }

// StepsOf returns the step counts at which a student of n steps is measured: n,
// and every other one of the report where it is a consistency model, which is
// made for any.
func (e *Eval) StepsOf(n int, consistent bool) []int {
	out := []int{n}
	for _, k := range e.Steps {
		if consistent && k != n {
			out = append(out, k)
		}
	}
	return out
}

// LevelWeights returns the weights of the stage's discriminator noise levels
// in a phase of it.
func (s *Stage) LevelWeights(p *Phase) []float64 {
	if len(p.NoiseWeights) > 0 {
		return p.NoiseWeights
	}
	return s.NoiseWeights
}

// Stage returns the stage of a name, nil when there is none.
func (c *Recipe) Stage(name string) *Stage {
	for i := range c.Stages {
		if c.Stages[i].Name == name {
			return &c.Stages[i]
		}
	}
	return nil
}

// Phase returns the phase of a name, nil when there is none.
func (s *Stage) Phase(name string) *Phase {
	for i := range s.Phases {
		if s.Phases[i].Name == name {
			return &s.Phases[i]
		}
	}
	return nil
}
