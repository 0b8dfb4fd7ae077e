package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/model/bundle"
	"fewstep/model/process"
	"fewstep/model/unet"
	"fewstep/model/vae"
	"fewstep/train"
	"fewstep/train/bench"
	"fewstep/train/cost"
)

func init() { register(newPlan) }

func newPlan(a *app) *cobra.Command {
	var set []string
	var speed planSpeed
	var brief, where bool
	var memory string
	var devices, nodes int
	var scale planScale
	c := &cobra.Command{
		Use:   "plan CONFIG",
		Short: "Show what a recipe will do and roughly what it takes, without running it.",
		Long: "Shows what a recipe will do and roughly what it takes, without running it.\n\n" +
			"The resolved recipe, and for every phase its teacher, start, trained parameters, samples, network calls, operations,\n" +
			"memory and sizes on disk.\n\n" +
			"Weights need not be there; of the model directory only the config files are read. A directory that is missing and\n" +
			"named after SDXL, Stable Diffusion 1.5 or 2.1 is taken for that.\n\n" +
			configHelp + "\n\n" +
			"A value is given by the last of these layers that has it: defaults, the recipe, the settings file of the user\n" +
			"(" + settingsPlace + "), environment variables (FEWSTEP_BACKEND, FEWSTEP_TRAIN_BATCH), flags and --set.\n" +
			"Settings are backend, memory_fraction, pjrt_plugin, python, program_cache, object_storage.endpoint and .region.\n" +
			"With --where, the layer of every value is shown and nothing else.",
		Example: "  fewstep plan mini/demo\n  fewstep plan configs/sdxl/lightning.yaml --set train.batch=4 --tflops 200 --memory 80GB",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if where {
				return a.where(args[0], set)
			}
			if nodes != 0 {
				if nodes < 1 || nodes > 1<<16 || scale.perNode < 1 || nodes*scale.perNode > 1<<16 {
					return usageErrorf("--nodes %d of --gpus %d: there is at least one of each, and at most 65536 GPUs", nodes, scale.perNode)
				}
				if !cmd.Flags().Changed("devices") {
					devices = nodes * scale.perNode
				}
				if !cmd.Flags().Changed("scale") && speed.tflops > 0 {
					scale.most = nodes * scale.perNode
				}
			}
			if err := speed.check(); err != nil {
				return err
			}
			if err := scale.check(speed); err != nil {
				return err
			}
			if devices < 1 || devices > 1<<16 {
				return usageErrorf("--devices %d: choose between 1 and 65536", devices)
			}
			var limit int64
			if memory != "" {
				n, err := humanize.ParseBytes(memory)
				if err != nil || n == 0 || n > 1<<50 {
					return withHint(usageErrorf("--memory %q is not a size", memory), "write it as 24GB or 22.5GiB")
				}
				limit = int64(n)
			}
			return a.plan(args[0], set, speed, brief, limit, devices, scale)
		},
	}
	c.Flags().StringArrayVar(&set, "set", nil, "change a value of the recipe, key=value; repeatable")
	c.Flags().Float64Var(&speed.samples, "samples-per-second", 0, "also estimate times at this training speed, the same for all phases")
	c.Flags().Float64Var(&speed.tflops, "tflops", 0, "also estimate times at the TFLOP/s that training tells, and roughly 'fewstep bench': phases differ by their operations")
	c.Flags().StringVar(&memory, "memory", "", "the device's memory, such as 24GB: a recipe that takes more is refused, naming what would fit")
	c.Flags().BoolVar(&where, "where", false, "show which layer gave each value of the recipe and each setting, and nothing else")
	c.Flags().IntVar(&devices, "devices", 1, "how many devices train together: memory is told of each, with its part of the batch")
	c.Flags().IntVar(&scale.most, "scale", 0, "also estimate the longest phase on 1, 2, 4 … up to so many GPUs; with --tflops, that of one")
	c.Flags().IntVar(&nodes, "nodes", 0, "nodes that train together, each with --gpus: stands for --devices and, with --tflops, --scale")
	c.Flags().IntVar(&scale.perNode, "gpus", 8, "GPUs of a node, for --nodes and --scale")
	c.Flags().Float64Var(&scale.link, "link", 348, "GB/s that each GPU moves in an all-reduce within a node, for --scale; left out = measured on two H200s")
	c.Flags().Float64Var(&scale.network, "network", 50, "GB/s that each GPU moves between nodes, for --scale; left out = 400 Gb/s of InfiniBand")
	c.Flags().Float64Var(&scale.disk, "disk", 1, "GB/s that each node writes of a checkpoint while all do, for --scale")
	c.Flags().BoolVar(&brief, "brief", false, "leave out the resolved recipe")
	return c
}

// settingsPlace is where a user's settings lie, as help says it.
const settingsPlace = "settings.yaml in ~/.config/fewstep, or the file in " + configs.FileEnv

// where tells which layer gave each value.
func (a *app) where(path string, set []string) error {
	c, err := a.recipe(path, set...)
	if err != nil {
		return err
	}
	settings, recipe := a.settings.Provenance(), c.Provenance()
	if a.json {
		return a.writeJSON(map[string]any{"settings": settings, "recipe": recipe})
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, o := range slices.Concat(settings, recipe) {
		if value := []rune(o.Value); len(value) > 60 {
			o.Value = string(value[:57]) + "..."
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", o.Key, o.Value, o.From)
	}
	return w.Flush()
}

// planned is the JSON form of a plan.
type planned struct {
	Config     string       `json:"config"`
	ConfigHash string       `json:"config_sha256"`
	Notes      []string     `json:"notes"`
	Phases     []cost.Phase `json:"phases"`
	Samples    int64        `json:"samples"`
	FLOPs      float64      `json:"flops"`
	Memory     int64        `json:"memory_bytes"` // of the largest phase
	Host       int64        `json:"host_bytes"`   // of the host's memory, for offloaded state
	Sheets     int64        `json:"sheets_bytes"` // of device memory while sample sheets are drawn, between phases
	Disk       int64        `json:"disk_bytes"`

	Devices int              `json:"devices,omitempty"`               // that train together; memory is that of each
	Spread  map[string]int64 `json:"memory_bytes_by_shard,omitempty"` // of the largest phase, by train.shard, where there are several devices

	Image   int64   `json:"encoded_image_bytes"`   // on disk beside these, for every image of the data set
	Caption int64   `json:"encoded_caption_bytes"` // and for every caption
	Seconds float64 `json:"seconds,omitempty"`

	Scales []cost.Scale `json:"scales,omitempty"` // of the longest phase, with --scale
	Scaled string       `json:"scaled_phase,omitempty"`
	Enough int          `json:"enough_devices,omitempty"` // from which on doubling helps little

	Stop float64 `json:"stop_seconds,omitempty"` // the longest from a signal to the saved state, where a speed is told

	Fits []cost.Change `json:"fits,omitempty"` // where the recipe takes more than --memory
}

func (a *app) plan(path string, set []string, speed planSpeed, brief bool, limit int64, devices int, scale planScale) error {
	c, err := a.recipe(path, set...)
	if err != nil {
		return err
	}
	m, notes, err := planModel(c)
	if err != nil {
		return err
	}
	if err := c.CheckTimesteps(m.Schedule.T()); err != nil {
		return withCode(exitUsage, err)
	}
	if c.Train.Batch%devices != 0 {
		return withCode(exitUsage, train.Indivisible(c.Train.Batch, devices))
	}
	cuda := a.forGPU(c)
	device := cost.Device{Split: !cuda, Flash: cuda && c.Train.Compute == "bf16", Devices: devices}
	rt, phases, err := planPhases(c, m, device)
	if err != nil {
		return err
	}
	defer rt.Close()
	p := planned{Config: string(c.Resolved()), ConfigHash: c.Hash(), Notes: append(notes, recipeNotes(c)...), Phases: phases}
	if p.Sheets, err = cost.Drawing(rt.Backend, c, m, device); err != nil {
		return err
	}
	if p.Spread, err = spread(c, m, device); err != nil {
		return err
	}
	if devices > 1 {
		p.Devices = devices
	}
	if scale.most > 0 {
		p.scale(c, scale, speed)
	}
	p.Image, p.Caption = m.Encoded(c)
	p.Notes = append(p.Notes, encodingNotes(rt.Backend, c, p.Image, p.Caption)...)
	p.add(c.Train.KeepCheckpoints, speed)
	p.stop(speed, scale, devices)
	tooMuch := limit > 0 && p.Memory > limit
	if tooMuch {
		load := func(more ...string) (*configs.Recipe, error) {
			return loadRecipe(path, append(slices.Clone(set), more...)...)
		}
		if p.Fits, err = cost.Fit(rt.Backend, load, m, device, limit); err != nil {
			return err
		}
	}
	switch {
	case a.json:
		err = a.writeJSON(p)
	case brief:
		err = a.printPlan(p)
	default:
		fmt.Fprintln(a.stdout, p.Config)
		err = a.printPlan(p)
	}
	if err != nil || !tooMuch {
		return err
	}
	return tooLarge(p.Memory, limit, p.Fits)
}

// forGPU says whether a recipe is planned for a GPU: where one is asked for or seen, and for recipes in bf16, which are
// not meant for CPUs, unless a CPU is asked for.
func (a *app) forGPU(c *configs.Recipe) bool {
	return a.backend == xla.CUDA || a.backend == xla.Auto && (c.Train.Compute == "bf16" || xla.DefaultSearch().HasGPU)
}

// planSpeed is one of two ways to tell a speed; 0 = not told.
type planSpeed struct{ samples, tflops float64 }

func (s planSpeed) check() error {
	for name, v := range map[string]float64{"samples-per-second": s.samples, "tflops": s.tflops} {
		if v < 0 || math.IsInf(v, 0) || math.IsNaN(v) {
			return usageErrorf("--%s %g is not a speed", name, v)
		}
	}
	if s.samples > 0 && s.tflops > 0 {
		return usageErrorf("--samples-per-second and --tflops exclude each other")
	}
	return nil
}

// seconds of a phase; 0 where no speed was told.
func (s planSpeed) seconds(p cost.Phase) float64 {
	switch {
	case s.samples > 0:
		return float64(p.Samples) / s.samples
	case s.tflops > 0:
		return float64(p.Samples) * p.Model / (s.tflops * 1e12)
	}
	return 0
}

// add sums the phases up.
func (p *planned) add(keep int, speed planSpeed) {
	p.Notes = append(p.Notes, "operations: "+cost.FLOPsCount, "memory: "+cost.MemoryCounts,
		fmt.Sprintf("disk: checkpoints and results; the encoded data set comes to them, %s an image and %s a caption", bytesText(p.Image), bytesText(p.Caption)))
	var checkpoint int64
	for i, ph := range p.Phases {
		p.Phases[i].Seconds = speed.seconds(ph)
		p.Seconds += p.Phases[i].Seconds
		p.Samples += ph.Samples
		p.FLOPs += ph.FLOPs
		p.Memory, p.Host = max(p.Memory, ph.Memory.Total), max(p.Host, ph.Memory.Host)
		p.Disk += ph.Result
		checkpoint = max(checkpoint, ph.Checkpoint)
	}
	p.Disk += int64(max(keep, 2)) * checkpoint
	if speed.tflops > 0 {
		p.Notes = append(p.Notes, "times: "+cost.ModelCount)
	}
}

// planPhases plans a recipe's phases, on a backend that only builds graphs; whoever calls it closes that.
func planPhases(c *configs.Recipe, m cost.Model, d cost.Device) (*xla.Runtime, []cost.Phase, error) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		return nil, nil, err
	}
	phases, err := cost.Plan(rt.Backend, c, m, d)
	if err != nil {
		rt.Close()
		return nil, nil, withCode(exitUsage, err)
	}
	return rt, phases, nil
}

// spread is the device memory of a recipe's largest phase by train.shard, where several devices may share the state.
func spread(c *configs.Recipe, m cost.Model, d cost.Device) (map[string]int64, error) {
	if d.Devices <= 1 || c.Train.Granularity == "network" {
		return nil, nil
	}
	out := map[string]int64{}
	for _, shard := range []string{configs.ShardReplicated, configs.ShardSharded} {
		changed := *c
		changed.Train.Shard = shard
		rt, phases, err := planPhases(&changed, m, d)
		if err != nil {
			return nil, err
		}
		rt.Close()
		for _, p := range phases {
			out[shard] = max(out[shard], p.Memory.Total)
		}
	}
	return out, nil
}

// known are models whose architecture their names tell.
var known = []struct {
	parts  []string // of the name, one of which it has
	preset string
	title  string
	empty  bool // the empty prompt is encoded
}{
	{[]string{"stable-diffusion-xl", "sdxl"}, "sdxl", "SDXL base 1.0", false},
	{[]string{"stable-diffusion-v1", "sd15", "sd-v1", "sd1.5"}, "sd15", "Stable Diffusion 1.5", true},
	{[]string{"stable-diffusion-2", "sd21", "sd-v2", "sd2.1"}, "sd21", "Stable Diffusion 2.1", true},
}

// planModel reads the architecture from the model directory's config files; of one that is missing it may tell it by its
// name.
func planModel(c *configs.Recipe) (cost.Model, []string, error) {
	m := cost.Model{Schedule: distill.SDXLSchedule(), Factor: 8, Tokens: 77}
	dir := c.ModelPath()
	name := strings.ToLower(filepath.Base(c.Model))
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		for _, k := range known {
			if !slices.ContainsFunc(k.parts, func(part string) bool { return strings.Contains(name, part) }) {
				continue
			}
			m.Denoiser, m.EncodesEmpty = bench.Presets[k.preset].UNet, k.empty
			return m, []string{"model: " + c.Model + " is not there; planned with the architecture of " + k.title + ", which its name says"}, nil
		}
		return m, nil, withHint(fmt.Errorf("the model %s is not there, and its architecture cannot be told from its name", c.Model),
			"name a diffusers directory or single file in the recipe's model; its config files are enough for a plan")
	}
	read := func(name string) ([]byte, string, error) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		raw, err := os.ReadFile(path)
		return raw, path, err
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		b, err := bundle.Open(dir, bundle.Options{})
		if err != nil {
			return m, nil, err
		}
		defer b.Close()
		read = func(name string) ([]byte, string, error) {
			raw, err := b.File(name)
			return raw, filepath.Join(dir, filepath.FromSlash(name)), err
		}
	}
	raw, path, err := read("unet/config.json")
	if err != nil {
		return m, nil, err
	}
	if m.Denoiser, err = unet.ParseConfig(raw, path); err != nil {
		return m, nil, err
	}
	if raw, path, err = read("vae/config.json"); err != nil {
		return m, nil, err
	}
	v, err := vae.ParseConfig(raw, path)
	if err != nil {
		return m, nil, err
	}
	m.Factor = v.Factor()
	if b, err := bundle.Open(dir, bundle.Options{}); err == nil { // without a model_index.json it is none
		defer b.Close()
		zeros, err := b.EmptyIsZeros()
		if err != nil {
			return m, nil, err
		}
		m.EncodesEmpty = !zeros
	}
	if raw, path, err = read("scheduler/scheduler_config.json"); err != nil {
		return m, nil, err
	}
	if m.Schedule, _, err = process.ParseScheduler(raw); err != nil {
		return m, nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil, nil
}

func (a *app) printPlan(p planned) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	head := "phase\tteacher\tstart\tproduces\ttrained\tcritic\tsamples\tupdates\tcalls\tops/sample\tops\tmemory\tcheckpoint\tresult"
	if p.Seconds > 0 {
		head += "\ttime"
	}
	fmt.Fprintln(w, head)
	for _, ph := range p.Phases {
		if ph.Kind == configs.KindMerge {
			fmt.Fprintf(w, "%s/%s\t-\t%s\t%s\t-\t-\t-\t-\t-\t-\t-\t-\t-\t%s\n", ph.Stage, ph.Phase, ph.Start, ph.Produces, bytesText(ph.Result))
			continue
		}
		teacher := ph.Teacher
		if ph.TeacherSteps > 0 {
			teacher += fmt.Sprintf(" ×%d", ph.TeacherSteps)
		}
		if ph.Guidance > 0 {
			teacher += fmt.Sprintf(" g=%g", ph.Guidance)
		}
		critic := "-"
		if ph.Discriminator > 0 {
			critic = count(float64(ph.Discriminator))
		}
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s", ph.Stage, ph.Phase, teacher, ph.Start, ph.Produces,
			count(float64(ph.Trained)), critic, ph.Samples, ph.Updates, ph.TeacherCalls, count(ph.FLOPsPerSample), count(ph.FLOPs),
			bytesText(ph.Memory.Total), bytesText(ph.Checkpoint), bytesText(ph.Result))
		if p.Seconds > 0 {
			fmt.Fprintf(w, "\t%s", duration(ph.Seconds))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\n%d samples, %s operations, at most %s of device memory", p.Samples, count(p.FLOPs), bytesText(p.Memory))
	if p.Devices > 1 {
		fmt.Fprintf(a.stdout, " of each of %d devices", p.Devices)
	}
	if p.Host > 0 {
		fmt.Fprintf(a.stdout, ", %s of the host's memory for offloaded state", bytesText(p.Host))
	}
	if p.Sheets > 0 {
		fmt.Fprintf(a.stdout, ", %s of device memory for sample sheets between phases", bytesText(p.Sheets))
	}
	fmt.Fprintf(a.stdout, ", %s on disk", bytesText(p.Disk))
	if p.Seconds > 0 {
		fmt.Fprintf(a.stdout, ", %s at %.3g samples/s (%s operations/s)", duration(p.Seconds), float64(p.Samples)/p.Seconds, count(p.FLOPs/p.Seconds))
	}
	fmt.Fprintln(a.stdout)
	if len(p.Spread) > 0 {
		fmt.Fprintf(a.stdout, "device memory with train.shard replicated %s, sharded %s\n", bytesText(p.Spread[configs.ShardReplicated]), bytesText(p.Spread[configs.ShardSharded]))
	}
	if len(p.Scales) > 0 {
		if err := p.printScales(a.stdout); err != nil {
			return err
		}
	}
	for _, note := range p.Notes {
		fmt.Fprintln(a.stdout, note)
	}
	return nil
}

// duration in the two largest units.
func duration(seconds float64) string {
	if days := seconds / 86400; days >= 2 {
		return fmt.Sprintf("%.1f days", days)
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}
