package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/gomlx/compute/dtypes"
	"github.com/spf13/cobra"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
)

func init() { register(newDoctor) }

// diagnosis is what `fewstep doctor --json` prints.
type diagnosis struct {
	Version  string         `json:"version"`
	Platform string         `json:"platform"`
	CPUs     int            `json:"cpus"`
	Memory   memoryFigures  `json:"memory"`
	Disk     diskFigures    `json:"disk"`
	GPUSeen  bool           `json:"nvidia_gpu_seen"`
	Plugins  []foundPlugin  `json:"plugins"` // in the order in which `--backend auto` tries them
	Asked    string         `json:"backend_asked"`
	Chosen   *chosenBackend `json:"backend,omitempty"`
	Reasons  []string       `json:"reasons"`
	Missing  []missingPart  `json:"missing"`
	Error    string         `json:"error,omitempty"`
}

type memoryFigures struct {
	TotalBytes     int64 `json:"total_bytes"`
	AvailableBytes int64 `json:"available_bytes"`
}

type diskFigures struct {
	Folder    string `json:"folder"`
	FreeBytes int64  `json:"free_bytes"`
}

type foundPlugin struct {
	xla.Candidate
	MissingLibraries []string `json:"missing_libraries,omitempty"`
}

type chosenBackend struct {
	Kind         string       `json:"kind"`
	Plugin       string       `json:"plugin,omitempty"`
	Version      string       `json:"version"`
	Devices      []xla.Device `json:"devices"`
	Model        string       `json:"device_model"`
	Flags        []string     `json:"xla_flags_added,omitempty"` // beside the user's XLA_FLAGS
	CheckSeconds float64      `json:"check_seconds"`             // compiling and running a small program
	Offload      bool         `json:"offload"`                   // train.offload is possible
	NoOffload    string       `json:"no_offload,omitempty"`      // why not
}

type missingPart struct {
	What    string `json:"what"`
	Command string `json:"command"`
}

func newDoctor(a *app) *cobra.Command {
	var ranks clusterFlags
	var inCluster bool
	var dir, recipe string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Show which backend is used and why, and what is missing and how to get it.",
		Long: "Show which backend is used and why, and what is missing and how to get it.\n\n" +
			"The backend is opened and computes a small program. Nothing is changed or downloaded.\n" +
			"The exit code is 1 where the asked-for backend cannot be used.\n\n" +
			"With --cluster, and started on every node as a run would be, it compares the nodes: programs, plugins, drivers, devices,\n" +
			"clocks, free space, whether the run directory is shared, and whether every node reaches every other. Rank 0 prints the\n" +
			"table; all ranks end with exit code 4 where they cannot train together.\n" + clusterHelp,
		Example: "  fewstep doctor\n  fewstep doctor --backend cuda --json\n  srun --ntasks-per-node=1 fewstep doctor --cluster --dir runs/sdxl --config configs/sdxl/lightning.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inCluster {
				return a.doctorCluster(cmd.Context(), &ranks, dir, recipe)
			}
			d, err := examine(a.backend, a.memory)
			if a.json {
				if werr := a.writeJSON(d); werr != nil {
					return werr
				}
			} else if werr := d.print(a.stdout); werr != nil {
				return werr
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&inCluster, "cluster", false, "compare the nodes of a cluster; start it on all of them")
	f.StringVar(&dir, "dir", "", "run directory that all nodes must share (with --cluster)")
	f.StringVar(&recipe, "config", "", "recipe that must be the same on all nodes (with --cluster)")
	ranks.add(f)
	return c
}

// examine fills a diagnosis; the error is that of opening or checking the backend.
func examine(backend string, memory float64) (*diagnosis, error) {
	v := readVersion()
	search := xla.DefaultSearch()
	d := &diagnosis{
		Version: v.Version, Platform: v.OS + "/" + v.Arch, CPUs: runtime.NumCPU(),
		GPUSeen: search.HasGPU, Asked: backend,
		Plugins: []foundPlugin{}, Reasons: []string{}, Missing: []missingPart{},
	}
	if total, available, err := xla.HostMemory(); err == nil {
		d.Memory = memoryFigures{total, available}
	}
	if dir, err := os.Getwd(); err == nil {
		d.Disk.Folder = dir
		d.Disk.FreeBytes, _ = xla.DiskFree(dir)
	}
	found := map[string]int{}
	for _, kind := range []string{xla.CUDA, xla.CPU} {
		for _, c := range search.Candidates(kind) {
			d.Plugins = append(d.Plugins, foundPlugin{c, c.MissingLibraries()})
			found[kind]++
		}
	}

	rt, err := xla.Open(backend, xla.Options{Search: search, MemoryFraction: memory})
	if err == nil {
		defer rt.Close()
		start := time.Now()
		if err = rt.Check(); err == nil {
			d.Chosen = &chosenBackend{Kind: rt.Kind, Plugin: rt.Plugin, Version: rt.Version, Devices: rt.Devices(), Model: rt.DeviceName(), Flags: rt.Flags, CheckSeconds: time.Since(start).Seconds()}
			e := engine.New(rt.Backend, dtypes.Float32, nn.Layer)
			e.Offload = 1
			if off := e.CheckOffload(); off != nil {
				d.Chosen.NoOffload = off.Error()
			} else {
				d.Chosen.Offload = true
			}
		}
		for _, note := range rt.Notes {
			d.Reasons = append(d.Reasons, strings.TrimPrefix(note, "warning: "))
		}
	}
	if found[xla.CPU] == 0 {
		d.Missing = append(d.Missing, missingPart{"XLA CPU plugin", xla.RemedyCommand(xla.CPU)})
	}
	noCUDA := d.Chosen == nil || d.Chosen.Kind != xla.CUDA
	if backend == xla.CUDA && !d.GPUSeen {
		d.Missing = append(d.Missing, missingPart{"an NVIDIA GPU with its driver (no /dev/nvidia0)", "nvidia-smi"})
	}
	if noCUDA && (backend == xla.CUDA || backend == xla.Auto && d.GPUSeen) {
		d.Missing = append(d.Missing, missingPart{"a working XLA CUDA plugin with its libraries", xla.RemedyCommand(xla.CUDA)})
	}
	if err != nil {
		d.Error = err.Error()
		if !errors.Is(err, xla.ErrNoBackend) {
			err = withHint(err, "try another one with --backend, such as --backend go")
		}
	}
	return d, err
}

// print writes the diagnosis for a person.
func (d *diagnosis) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("fewstep", "%s, %s, %d CPUs", d.Version, d.Platform, d.CPUs)
	row("memory", "%s free of %s", bytesText(d.Memory.AvailableBytes), bytesText(d.Memory.TotalBytes))
	row("disk", "%s free in %s", bytesText(d.Disk.FreeBytes), d.Disk.Folder)
	row("NVIDIA GPU", "%s", map[bool]string{true: "seen", false: "none seen"}[d.GPUSeen])
	if len(d.Plugins) == 0 {
		row("plugins", "none found")
	}
	for i, p := range d.Plugins {
		name := ""
		if i == 0 {
			name = "plugins"
		}
		row(name, "%s  %s (%s)", p.Kind, p.Path, p.Source)
		if len(p.MissingLibraries) > 0 {
			row("", "      libraries not beside it: %s", strings.Join(p.MissingLibraries, ", "))
		}
	}
	if d.Chosen == nil {
		row("backend", "none for --backend %s", d.Asked)
	} else {
		row("backend", "%s (--backend %s), %s", d.Chosen.Kind, d.Asked, d.Chosen.Version)
		if d.Chosen.Plugin != "" {
			row("", "%s", d.Chosen.Plugin)
		}
		for _, dev := range d.Chosen.Devices {
			memory := ""
			if dev.Memory != nil {
				memory = fmt.Sprintf(", %s in use of %s", bytesText(dev.Memory.InUse), bytesText(dev.Memory.Limit))
			}
			row("", "device %d: %s%s", dev.Number, dev.Description, memory)
		}
		if len(d.Chosen.Flags) > 0 {
			row("XLA flags", "set beside yours: %s", strings.Join(d.Chosen.Flags, " "))
		}
		row("check", "a small program computes right (compiled and run in %.2f s)", d.Chosen.CheckSeconds)
		if d.Chosen.Offload {
			row("offload", "possible: train.offload keeps optimizer state in the host's memory, of which %s are free", bytesText(d.Memory.AvailableBytes))
		} else {
			row("offload", "not possible: %s", d.Chosen.NoOffload)
		}
	}
	for i, reason := range d.Reasons {
		name := ""
		if i == 0 {
			name = "why"
		}
		row(name, "%s", reason)
	}
	for i, part := range d.Missing {
		name := ""
		if i == 0 {
			name = "missing"
		}
		row(name, "%s; get it with:", part.What)
		row("", "  %s", part.Command)
	}
	if len(d.Missing) == 0 {
		row("missing", "nothing")
	}
	return tw.Flush()
}

// bytesText writes a size in the unit that suits it.
func bytesText(n int64) string {
	switch {
	case n <= 0:
		return "unknown"
	case n < 1<<20:
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	case n < 1<<30:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
