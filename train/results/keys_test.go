package results

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"image/png"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/images"
	"fewstep/distill"
	"fewstep/distill/methods"
	"fewstep/internal/xla"
	"fewstep/model/pipeline"
	"fewstep/train"
	"fewstep/train/cost"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
	"fewstep/train/tinypipeline"
)

// ladder is the tiny recipe with few phases: every kind, target and form is there once.
const ladder = `stages:
  - {name: "16", like: "32", teacher_steps: 32, student_steps: 16, guidance: 2, phases: [{name: mse-lora, like: mse-lora, samples: 4, lr: 1e-3}]}
  - name: "8"
    teacher_steps: 16
    phases: [{name: lora-cond, like: lora-cond, samples: 8, lr: 1e-3}, merge, {name: full-uncond, like: full-uncond, samples: 4, lr: 1e-3}]
  - {name: "1", teacher_steps: 8, skip_teacher_steps: 16, phases: [{name: x0, like: x0, samples: 4, lr: 1e-3}]}
`

const (
	adversarial = "stages.8.phases.lora-cond."
	skips       = `stages.1.phases=[{name: full-cond, kind: adversarial, target: full, form: conditional, teacher: skip, samples: 4, lr: 1e-3}]`
	complete    = "data.source=images.parquet" // enough images to be measured by
)

// consistent makes the second stage one of consistency distillation.
var consistent = []string{"stages.8={loss: mse, teacher_steps: 20, guidance: 2, phases: [{name: c, kind: lcm, target: lora, samples: 8, lr: 1e-3}, {name: m, kind: merge}]}"}

// sorted are images of many sizes, and kohya's buckets for when they are asked for.
var sorted = []string{"data.source=sizes.parquet", "data.resolution=32", "data.buckets.least=16", "data.buckets.most=64", "data.buckets.step=8"}

// look tells what can be seen of a recipe with some settings.
type look func(t *testing.T, recipe string, set []string) string

// acts says of each key of a recipe where its change is seen, to which value it is changed, and the settings that both have
// besides. Keys of stages and phases stand for all stages and phases. Where look is nil, the change must be refused.
var acts = map[string]struct {
	look look
	to   string
	with []string
}{
	"name":                     {measured, "name=other", nil},
	"seed":                     {run, "seed=12", nil},
	"model":                    {nil, "model=nowhere", nil},
	"data.source":              {nil, "data.source=nowhere.parquet", nil},
	"data.resolution":          {plan, "data.resolution=32", nil},
	"data.captions.fine":       {run, "data.captions={fine: 1, kind: 0, coarse: 0}", nil},
	"data.captions.kind":       {run, "data.captions={fine: 0, kind: 1, coarse: 0}", nil},
	"data.captions.coarse":     {run, "data.captions={fine: 0, kind: 0, coarse: 1}", nil},
	"data.buckets.list":        {run, "data.buckets={list: kohya}", sorted},
	"data.buckets.least":       {run, "data.buckets.least=24", append([]string{"data.buckets.list=kohya"}, sorted...)},
	"data.buckets.most":        {run, "data.buckets.most=32", append([]string{"data.buckets.list=kohya"}, sorted...)},
	"data.buckets.step":        {run, "data.buckets.step=16", append([]string{"data.buckets.list=kohya"}, sorted...)},
	"data.buckets.own":         {run, "data.buckets.own=[16x32]", append([]string{"data.buckets={list: own, own: [32x32]}"}, sorted...)},
	"data.small":               {run, "data.small=drop", []string{"data.source=sizes.parquet"}},
	"data.conditions":          {run, "data.conditions=target", []string{"data.source=sizes.parquet"}},
	"data.dropout":             {run, "data.dropout=0.9", nil},
	"data.posterior":           {run, "data.posterior=sample", nil},
	"data.encode_ahead":        {encodes, "data.encode_ahead=0", nil},
	"data.max_bad":             {nil, "data.max_bad=0", []string{"data.source=flawed.parquet", "data.max_bad=1"}},
	"data.vae_tile":            {run, "data.vae_tile=8", nil},
	"train.batch":              {run, "train.batch=4", nil},
	"train.accumulate":         {run, "train.accumulate=2", nil},
	"train.compute":            {run, "train.compute=bf16", nil},
	"train.granularity":        {plan, "train.granularity=layer", []string{"train.calls=network"}},
	"train.calls":              {run, "train.calls=network", []string{"train.granularity=layer", "train.calls=layer"}},
	"train.frozen":             {plan, "train.frozen=bf16", []string{"train.granularity=layer", "train.calls=layer"}},
	"train.moments":            {run, "train.moments=bf16", nil},
	"train.reduce":             {plan, "train.reduce=bf16", nil},
	"train.shard":              {plan, "train.shard=sharded", []string{"train.granularity=layer", "train.calls=layer"}},
	"train.offload":            {plan, "train.offload=optimizer", []string{"train.granularity=layer", "train.calls=layer", "model=../../assets/mini"}},
	"train.checkpoint_minutes": {saved, "train.checkpoint_minutes=1e-9", []string{"train.checkpoint_samples=0"}},
	"train.checkpoint_samples": {saved, "train.checkpoint_samples=0", nil},
	"train.keep_checkpoints":   {saved, "train.keep_checkpoints=3", nil},
	"train.ema":                {run, "train.ema=0.5", nil},
	"train.clip_norm":          {run, "train.clip_norm=1e-3", nil},
	"train.adam_epsilon":       {run, "train.adam_epsilon=1e-2", nil},

	"lora.rank":  {run, "lora.rank=3", nil},
	"lora.alpha": {run, "lora.alpha=5", nil},

	"discriminator.target":            {run, "discriminator.target=lora", nil},
	"discriminator.features":          {run, "discriminator.features=levels", nil},
	"discriminator.head_channels":     {run, "discriminator.head_channels=8", nil},
	"discriminator.head_groups":       {run, "discriminator.head_groups=2", nil},
	"discriminator.carry_backbone":    {run, "discriminator.carry_backbone=false", nil},
	"discriminator.carry_optimizer":   {run, "discriminator.carry_optimizer=true", nil},
	"discriminator.r1":                {run, "discriminator.r1=100", nil},
	"discriminator.r1_sigma":          {run, "discriminator.r1_sigma=0.5", []string{"discriminator.r1=100"}},
	"discriminator.gate_window":       {run, "discriminator.gate_window=2", []string{adversarial + "warmup_accuracy=1e-9", adversarial + "warmup_discriminator=6"}},
	"discriminator.collapse_window":   {logs, "discriminator.collapse_window=0", []string{"discriminator.collapse_loss=100", "discriminator.collapse_accuracy=0"}},
	"discriminator.collapse_loss":     {logs, "discriminator.collapse_loss=0", []string{"discriminator.collapse_loss=100", "discriminator.collapse_accuracy=0"}},
	"discriminator.collapse_accuracy": {logs, "discriminator.collapse_accuracy=1", []string{"discriminator.collapse_loss=100", "discriminator.collapse_accuracy=0"}},

	"lineage": {plan, "lineage=continued", []string{"stages.16.phases.mse-lora.target=full"}},

	"eval.samples":       {measured, "eval.samples=12", nil},
	"eval.batch":         {measured, "eval.batch=8", nil},
	"eval.guidance":      {measured, "eval.guidance=3", nil},
	"eval.teacher_steps": {measured, "eval.teacher_steps=3", nil},
	"eval.steps":         {measured, "eval.steps=[3, 1]", nil},
	"eval.sheet_prompts": {measured, "eval.sheet_prompts=[a red disc]", nil},
	"eval.sheet_samples": {measured, "eval.sheet_samples=1", nil},
	"eval.seed":          {measured, "eval.seed=2", nil},
	"eval.convention":    {nil, "eval.convention=lightning", nil},
	"eval.inception":     {nil, "eval.inception=flawed.parquet", []string{complete}},
	"eval.rivals":        {nil, "eval.rivals=[nowhere]", []string{complete}},
	"eval.bootstrap":     {measured, "eval.bootstrap=0", nil},

	"stages":                      {plan, `stages=["16", "8"]`, nil},
	"stages.*.name":               {plan, "stages.8.name=eight", nil},
	"stages.*.loss":               {nil, "stages.8.loss=mse", nil},
	"stages.*.teacher_steps":      {plan, "stages.8.teacher_steps=32", []string{"stages.8.guidance=1.5"}},
	"stages.*.student_steps":      {plan, "stages.1.student_steps=2", nil},
	"stages.*.guidance":           {run, "stages.16.guidance=3", nil},
	"stages.*.skip_teacher_steps": {plan, "stages.1.skip_teacher_steps=16", []string{"stages.1.skip_teacher_steps=8", skips}},
	"stages.*.timesteps":          {plan, "stages.8.timesteps=[500]", nil},
	"stages.*.noise_levels":       {plan, "stages.8.noise_levels=[100, 700]", nil},
	"stages.*.noise_weights":      {plan, "stages.8.noise_weights=[1, 0]", []string{"stages.8.noise_levels=[100, 700]"}},
	"stages.*.phases":             {plan, "stages.8.phases=[lora-cond, merge]", nil},

	"stages.*.phases.*.name":                       {plan, adversarial + "name=first", nil},
	"stages.*.phases.*.kind":                       {plan, "stages.16.phases.mse-lora={kind: adversarial, form: conditional}", []string{"stages.16.loss=adversarial"}},
	"stages.*.phases.*.target":                     {plan, "stages.16.phases.mse-lora.target=full", nil},
	"stages.*.phases.*.form":                       {plan, adversarial + "form=unconditional", nil},
	"stages.*.phases.*.teacher":                    {plan, "stages.1.phases.full-cond.teacher=skip", []string{skips, "stages.1.phases.full-cond.teacher=stage"}},
	"stages.*.phases.*.samples":                    {plan, adversarial + "samples=10", nil},
	"stages.*.phases.*.lr":                         {run, adversarial + "lr=1e-4", nil},
	"stages.*.phases.*.discriminator_lr":           {run, adversarial + "discriminator_lr=1e-4", nil},
	"stages.*.phases.*.decay":                      {run, adversarial + "decay=linear", nil},
	"stages.*.phases.*.beta1":                      {run, adversarial + "beta1=0.5", nil},
	"stages.*.phases.*.beta2":                      {run, adversarial + "beta2=0.5", nil},
	"stages.*.phases.*.weight_decay":               {run, adversarial + "weight_decay=0.5", nil},
	"stages.*.phases.*.discriminator_weight_decay": {run, adversarial + "discriminator_weight_decay=0.5", nil},
	"stages.*.phases.*.warmup_discriminator":       {run, adversarial + "warmup_discriminator=4", nil},
	"stages.*.phases.*.warmup_accuracy":            {run, adversarial + "warmup_accuracy=1e-9", []string{adversarial + "warmup_discriminator=6"}},
	"stages.*.phases.*.count_student":              {run, adversarial + "count_student=true", []string{adversarial + "warmup_discriminator=4"}},
	"stages.*.phases.*.gate":                       {run, adversarial + "gate=1", nil},
	"stages.*.phases.*.noise_weights":              {plan, adversarial + "noise_weights=[1, 0]", []string{"stages.8.noise_levels=[100, 700]"}},
	"stages.*.phases.*.huber":                      {run, "stages.8.phases.c.huber=0.1", consistent},
	"stages.*.phases.*.target_ema":                 {run, "stages.8.phases.c.target_ema=0.9", consistent},
	"stages.*.phases.*.guidance_to":                {plan, "stages.8.phases.c.guidance_to=4", consistent},
	"stages.*.phases.*.closed_form":                {whole, "stages.1.phases.x0.closed_form=16", nil},
}

// TestEveryKeyActs changes each key of a recipe and looks for what that changes.
func TestEveryKeyActs(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred small runs")
	}
	recipe := tiny(t)
	few(t, filepath.Dir(recipe))
	head, _, _ := strings.Cut(strings.Replace(tinypipeline.Recipe, "images.parquet", "few.parquet", 1), "stages:")
	if err := os.WriteFile(recipe, []byte(head+ladder), 0o666); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, p := range load(t, recipe).Provenance() {
		key := regexp.MustCompile(`\.phases\.[a-z0-9-]+\.`).ReplaceAllString(p.Key, ".phases.*.")
		key = regexp.MustCompile(`^stages\.[0-9]+\.`).ReplaceAllString(key, "stages.*.")
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		if _, ok := acts[key]; !ok {
			t.Errorf("nothing is said of what the key %s changes", key)
		}
	}
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(acts)) {
		a := acts[key]
		if !slices.Contains(keys, key) {
			t.Errorf("no recipe has the key %s", key)
		}
		t.Run(key, func(t *testing.T) {
			changed := append(slices.Clone(a.with), a.to)
			if a.look == nil {
				if err := begin(t, recipe, a.with); err != nil {
					t.Fatal(err)
				}
				if err := begin(t, recipe, changed); err == nil {
					t.Errorf("%s is taken", a.to)
				}
				return
			}
			id := fmt.Sprint(reflect.ValueOf(a.look).Pointer(), a.with)
			if seen[id] == "" {
				seen[id] = a.look(t, recipe, a.with)
				if len(a.with) == 0 && a.look(t, recipe, nil) != seen[id] {
					t.Fatal("what is seen differs without a change")
				}
			}
			if a.look(t, recipe, changed) == seen[id] {
				t.Errorf("%s changes nothing", a.to)
			}
		})
	}
}

// few writes a data set of few images, few.parquet, flawed.parquet with one more that cannot be decoded, and sizes.parquet of
// images of many sizes.
func few(t *testing.T, dir string) {
	t.Helper()
	records, err := tinypipeline.Records()
	if err != nil {
		t.Fatal(err)
	}
	if err := data.WriteParquet(filepath.Join(dir, "few.parquet"), records[:24]); err != nil {
		t.Fatal(err)
	}
	var many []data.Record
	for i, r := range records[:48] {
		m := images.New([]int{40, 16, 48, 12}[i%4], []int{40, 48, 16, 12}[i%4])
		for k := range m.Pix {
			m.Pix[k] = uint8(k * (i + 3))
		}
		var b bytes.Buffer
		if err := png.Encode(&b, m.Image()); err != nil {
			t.Fatal(err)
		}
		r.Image, r.Split = b.Bytes(), "train"
		many = append(many, r)
	}
	if err := data.WriteParquet(filepath.Join(dir, "sizes.parquet"), many); err != nil {
		t.Fatal(err)
	}
	records[24].Image = records[24].Image[:20]
	if err := data.WriteParquet(filepath.Join(dir, "flawed.parquet"), records[:25]); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, recipe string, set ...string) *configs.Recipe {
	t.Helper()
	c, err := configs.Load(recipe, set...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// begin walks the ladder until its first update, or to its report where the settings ask for complete data.
func begin(t *testing.T, recipe string, set []string) error {
	c, err := configs.Load(recipe, set...)
	if err != nil {
		return err
	}
	updates := 1
	if slices.Contains(set, complete) {
		updates = 0
	}
	_, _, err = climbed(t, c, t.TempDir(), "", updates)
	return err
}

// after stops a run after so many updates.
type after struct {
	updates int
	stop    func()
}

func (a *after) Update(r monitor.Record) error {
	if r.Kind == monitor.KindStep {
		if a.updates--; a.updates == 0 {
			a.stop()
		}
	}
	return nil
}

func (a *after) Close() error { return nil }

// plan shows the ladder, the first batch of each phase, and what they cost on two devices.
func plan(t *testing.T, recipe string, set []string) string {
	t.Helper()
	c := load(t, recipe, set...)
	p, err := pipeline.Open(c.ModelPath())
	if err != nil {
		t.Fatal(err)
	}
	steps, err := distill.Plan(c, p.Prediction)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, s := range steps {
		fmt.Fprintf(&out, "%+v\n", s)
		if !s.Trains() {
			continue
		}
		sampler, err := distill.NewSampler(p.Schedule, c, s)
		if err != nil {
			t.Fatal(err)
		}
		batch, err := sampler.Batch(s.First, 16)
		if err != nil {
			t.Fatal(err)
		}
		how, err := methods.Of(s.Kind)
		if err == nil {
			err = how.Draw(sampler, batch, s.First)
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%+v\n", *batch)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	phases, err := cost.Plan(rt.Backend, c, cost.Of(p), cost.Device{Devices: 2, Split: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, phase := range phases {
		fmt.Fprintf(&out, "%+v\n%d bytes of gradients\n", phase, phase.Traffic(c, 2))
	}
	return out.String()
}

// climb is climbed for a recipe that works.
func climb(t *testing.T, recipe, dir, until string, updates int, set []string) (log string, programs int64) {
	t.Helper()
	log, programs, err := climbed(t, load(t, recipe, set...), dir, until, updates)
	if err != nil {
		t.Fatal(err)
	}
	return log, programs
}

// climbed walks the ladder until the end of a stage, or for so many updates where that is not 0; where until is "", it makes the
// results of every phase and the report. It returns the warnings, and how many programs ran.
func climbed(t *testing.T, c *configs.Recipe, dir, until string, updates int) (log string, programs int64, err error) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		return "", 0, err
	}
	defer rt.Close()
	var b bytes.Buffer
	m := &Maker{Log: slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	opt := train.Options{Dir: dir, Until: until, Split: true, Backend: rt.Backend, Log: m.Log, Progress: &after{updates, stop}}
	if until == "" && updates == 0 {
		opt.Finished = m.Phase
	}
	r, err := train.Open(t.Context(), c, opt)
	if err != nil {
		return "", 0, err
	}
	defer r.Close()
	if _, err := r.Walk(ctx); err != nil && !(updates > 0 && errors.Is(err, train.ErrInterrupted)) {
		return "", 0, err
	}
	if opt.Finished != nil {
		_, err = m.Report(ctx, r)
	}
	return b.String(), r.Engine.Runs(), err
}

// content shows the files of a run below some of its entries.
func content(t *testing.T, dir string, entries ...string) string {
	t.Helper()
	var out strings.Builder
	for _, entry := range entries {
		err := filepath.WalkDir(filepath.Join(dir, entry), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			fmt.Fprintf(&out, "%s %x\n", strings.TrimPrefix(path, dir), sha256.Sum256(raw))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// run shows the statistics and results of the first two stages, and how many programs ran for them.
func run(t *testing.T, recipe string, set []string) string {
	t.Helper()
	dir := t.TempDir()
	_, programs := climb(t, recipe, dir, "8", 0, set)
	return fmt.Sprint(programs, content(t, dir, "stats.jsonl", "stages"))
}

// encodes shows what was encoded before training.
func encodes(t *testing.T, recipe string, set []string) string {
	t.Helper()
	dir := t.TempDir()
	climb(t, recipe, dir, "8", 1, set)
	return content(t, dir, "encoded")
}

// whole is run for all stages.
func whole(t *testing.T, recipe string, set []string) string {
	t.Helper()
	dir := t.TempDir()
	climb(t, recipe, dir, "1", 0, set)
	return content(t, dir, "stats.jsonl", "stages")
}

// logs shows the warnings of the first two stages.
func logs(t *testing.T, recipe string, set []string) string {
	t.Helper()
	log, _ := climb(t, recipe, t.TempDir(), "8", 0, set)
	return log + "."
}

// saved counts the checkpoints that are there after the fifth update, which is the third of the second phase.
func saved(t *testing.T, recipe string, set []string) string {
	t.Helper()
	dir := t.TempDir()
	climb(t, recipe, dir, "8", 5, set)
	d, err := rundir.View(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all, err := d.Checkpoints()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(len(all))
}

// measured shows the report, exports and sheets of the whole ladder, and how many programs ran for them.
func measured(t *testing.T, recipe string, set []string) string {
	t.Helper()
	dir := t.TempDir()
	log, programs := climb(t, recipe, dir, "", 0, append([]string{complete}, set...))
	return fmt.Sprint(log, programs, content(t, dir, "report", "sheets", "exports"))
}
