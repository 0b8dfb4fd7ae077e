// Package xla opens the compute backend under everything else: it finds a PJRT plugin (CUDA, then CPU),
// loads it together with the libraries that it needs, and hands it to GoMLX. Where no plugin can be used it
// falls back to GoMLX's pure-Go backend and says so.
//
// Nothing is ever downloaded here: GoMLX's own plugin installer is switched off.
//
// Where plugins are looked for is written at [Search]; which one is taken, at [Open].
package xla

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/gobackend"
	gomlxxla "github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
)

// Kinds of backend, as given to --backend and as reported in [Runtime].Kind. Auto is a choice only.
const (
	Auto = "auto"
	CUDA = "cuda"
	CPU  = "cpu"
	Go   = "go"
)

// Choices lists what [Open] accepts.
func Choices() []string { return []string{Auto, CUDA, CPU, Go} }

// ErrNoBackend is wrapped by every error of [Open] that means that the asked-for backend cannot be had here.
var ErrNoBackend = errors.New("no such backend on this machine")

// noBackendError tells why no plugin of a kind could be opened.
type noBackendError struct {
	kind     string
	problems []string
}

func (e *noBackendError) Error() string {
	return fmt.Sprintf("xla: backend %q: %s; %s", e.kind, strings.Join(e.problems, "; "), Remedy(e.kind))
}

func (e *noBackendError) Unwrap() error { return ErrNoBackend }

// Options of a backend. The zero value is one device, memory taken as it is needed.
type Options struct {
	Devices        int        // virtual CPU devices (kind cpu only); 0 = 1
	MemoryFraction float64    // upper limit of the device memory taken, as a fraction (kind cuda only); 0 = plugin's default (0.75)
	Preallocate    bool       // take that memory at once instead of as it is needed (kind cuda only)
	VisibleDevices []int      // CUDA device numbers to use; nil = all
	HostMemory     int64      // bytes of the host's memory that buffers will take (kind cuda only; see place.go); 0 = not known
	Search         *Search    // where to look for plugins; nil = DefaultSearch()
	Plain          bool       // use the plugin's table as it is: no asynchronous execution, aliasing or cache of programs
	Processes      *Processes // that drive devices together (kind cuda only); nil = this one is alone
	Programs       string     // folder of compiled programs, "off" = none; "" = FEWSTEP_PROGRAM_CACHE, else in the user's cache folder
}

// PlainEnv is the environment variable that sets Options.Plain when it is not empty.
const PlainEnv = "FEWSTEP_PLAIN_PJRT"

// Validate reports the first impossible option.
func (o Options) Validate() error {
	if o.Devices < 0 || o.Devices > 1024 {
		return fmt.Errorf("xla: %d virtual CPU devices asked for: choose between 1 and 1024", o.Devices)
	}
	if p := o.Processes; p != nil && (p.Count < 1 || p.Index < 0 || p.Index >= p.Count || p.Store == nil || o.Plain) {
		return fmt.Errorf("xla: process %d of %d: the index counts from 0, a store is needed, and the layer over the plugin's table", p.Index, p.Count)
	}
	if o.HostMemory < 0 {
		return fmt.Errorf("xla: %d bytes of the host's memory", o.HostMemory)
	}
	if o.MemoryFraction < 0 || o.MemoryFraction > 1 {
		return fmt.Errorf("xla: memory fraction %g: choose a value above 0 and at most 1", o.MemoryFraction)
	}
	return nil
}

// Runtime is an open backend and the account of how it was chosen.
type Runtime struct {
	Backend compute.Backend
	Kind    string   // CUDA, CPU or Go
	Plugin  string   // path of the plugin's shared library; empty for kind Go
	Version string   // PJRT API version and the plugin's own; "pure Go" for kind Go
	Notes   []string // warnings and reasons, in the order in which they came up; each a full clause without a full stop
	Flags   []string // flags of XLA's that were added to the user's XLA_FLAGS; one that the user sets is never added

	client *client // nil for kind Go
}

// Close frees the backend's device memory. The backend and everything made with it is unusable afterwards. Close waits for
// no compilation: while one is going on, the backend stays until that has ended.
func (r *Runtime) Close() {
	if r == nil || r.Backend == nil || r.Kind == Go {
		return // the pure-Go backend holds nothing but ordinary Go memory
	}
	backend, client := r.Backend, r.client
	r.client = nil
	end := func() {
		defer compiling.Unlock()
		backend.Finalize()
		client.forget()
	}
	if compiling.TryLock() {
		end()
		return
	}
	go func() {
		compiling.Lock()
		end()
	}()
}

// Sites says whether programs of their own for every place of a network pay (see engine.Engine.Sites): where kernels are
// recorded as CUDA graphs, and the copies of a program are loaded and not compiled.
func (r *Runtime) Sites() bool { return r.Kind == CUDA && r.CacheStats().Off == "" }

// NumDevices is the number of devices that this process drives.
func (r *Runtime) NumDevices() int { return r.Backend.NumDevices() }

func init() {
	// GoMLX would otherwise fetch plugins from the network the first time that a backend is opened.
	os.Setenv(gomlxxla.NoAutoInstallEnv, "1")
	gomlxxla.EnableAutoInstall(false)
	if os.Getenv("GOPJRT_CUDA_CHECKS") == "" {
		os.Setenv("GOPJRT_CUDA_CHECKS", "0")
	}
}

// Open opens a backend. choice is one of [Choices]:
//
//   - auto (or ""): the CUDA plugin if there is an NVIDIA GPU and a plugin for it, else the CPU XLA plugin,
//     else the pure-Go backend; every step down is told in Notes.
//   - cuda, cpu: that plugin or an error that wraps [ErrNoBackend] and names what is missing.
//   - go: the pure-Go backend.
//
// It never panics: what the plugins or GoMLX throw comes back as an error.
func Open(choice string, opt Options) (rt *Runtime, err error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	search := opt.Search
	if search == nil && choice != Go {
		search = DefaultSearch()
	}
	defer func() {
		if rt != nil && rt.Kind != Go {
			rt.Flags = addedFlags(usersFlags, os.Getenv(flagsEnv))
		}
	}()
	switch choice {
	case Auto, "":
		return openAuto(search, opt)
	case CUDA, CPU:
		rt, problems := openKind(search, choice, opt)
		if rt == nil {
			return nil, &noBackendError{choice, problems}
		}
		rt.Notes = append(problems, rt.Notes...)
		return rt, nil
	case Go:
		return openGo(nil, opt)
	}
	return nil, fmt.Errorf("xla: unknown backend %q: choose one of %s", choice, strings.Join(Choices(), ", "))
}

func openAuto(search *Search, opt Options) (*Runtime, error) {
	var notes []string
	if search.HasGPU {
		rt, problems := openKind(search, CUDA, opt)
		if rt != nil {
			rt.Notes = append(problems, rt.Notes...)
			return rt, nil
		}
		notes = append(notes, problems...)
		notes = append(notes, "there is an NVIDIA GPU but it cannot be used: "+Remedy(CUDA))
	} else {
		notes = append(notes, "no NVIDIA GPU found, so the CPU is used")
	}
	rt, problems := openKind(search, CPU, opt)
	if rt != nil {
		rt.Notes = append(append(notes, problems...), rt.Notes...)
		return rt, nil
	}
	notes = append(notes, problems...)
	notes = append(notes, "warning: the pure-Go backend is used, which is correct but many times slower: "+Remedy(CPU))
	return openGo(notes, opt)
}

// openKind tries every candidate of a kind in order. Without success it returns nil and the reasons.
func openKind(search *Search, kind string, opt Options) (*Runtime, []string) {
	if kind == CPU {
		quickCompile()
	}
	candidates := search.Candidates(kind)
	if len(candidates) == 0 {
		return nil, []string{fmt.Sprintf("no %s plugin found", kind)}
	}
	var problems []string
	for _, c := range candidates {
		rt, err := openCandidate(c, opt)
		if err == nil {
			return rt, problems
		}
		problems = append(problems, fmt.Sprintf("%s plugin %s (%s): %s", kind, c.Path, c.Source, firstLine(err)))
	}
	return nil, problems
}

// quickCompile asks the CPU plugin for LLVM's first optimisation level unless the user asked for another: the heavy
// work is in library calls, so that it halves compilation and costs no measurable speed.
func quickCompile() {
	setFlag("--xla_backend_optimization_level", "1")
}

// threadsFor has the CPU plugin make threads for several devices beside those for the processors. A collective holds one
// thread for each of its devices while what it waits for is computed; by default there are no more than that.
func threadsFor(devices int) {
	const name = "NPROC" // read by XLA's DefaultThreadPoolSize
	if devices > 1 && os.Getenv(name) == "" {
		os.Setenv(name, strconv.Itoa(runtime.NumCPU()+2*devices))
	}
}

func openCandidate(c Candidate, opt Options) (rt *Runtime, err error) {
	var notes []string
	defer func() {
		if p := recover(); p != nil {
			rt, err = nil, fmt.Errorf("plugin failed: %v", p)
		}
		if err != nil && len(notes) > 0 {
			err = fmt.Errorf("%s (%s)", firstLine(err), strings.Join(notes, "; "))
		}
	}()
	programs := opt.Programs
	if programs == "" {
		programs = defaultCacheDir()
	}
	if c.Kind == CUDA {
		limitHostMemory(opt.HostMemory)
		notes = prepareCUDA(c, programs)
		if opt.Processes != nil {
			setFlag("--xla_gpu_shard_autotuning", "false") // a process that has a program already would leave the others waiting for its share
		}
	}
	plain := opt.Plain || os.Getenv(PlainEnv) != ""
	plugin, err := loadPlugin(c.Kind, c.Path, plain)
	if err != nil {
		return nil, err
	}
	if !plain {
		useCache(plugin.real, programs)
	}
	var store KeyValue
	if opt.Processes != nil && c.Kind == CUDA {
		if plain {
			return nil, fmt.Errorf("several processes take the layer over the plugin's table: unset %s", PlainEnv)
		}
		store = opt.Processes.Store
	}
	config, values := plugin.name, pjrt.NamedValuesMap{}
	switch c.Kind {
	case CPU:
		values["cpu_device_count"] = int64(max(opt.Devices, 1))
		threadsFor(opt.Devices)
	case CUDA:
		if opt.MemoryFraction > 0 {
			values["memory_fraction"] = float32(opt.MemoryFraction)
		}
		if p := opt.Processes; p != nil {
			values["node_id"], values["num_nodes"] = int64(p.Index), int64(p.Count)
		}
		if opt.VisibleDevices != nil {
			ids := make([]int64, len(opt.VisibleDevices))
			for i, d := range opt.VisibleDevices {
				ids[i] = int64(d)
			}
			values["visible_devices"] = ids
		}
		// go-xla overwrites preallocate in the map; only its configuration text reaches the plugin.
		config += fmt.Sprintf(",preallocate=%t", opt.Preallocate)
		if opt.Devices > 1 {
			notes = append(notes, "virtual devices are an option of the CPU backend: ignored")
		}
	}
	backend, cl, err := plugin.newBackend(config, values, store)
	if err != nil {
		return nil, err
	}
	return &Runtime{Backend: backend, Kind: c.Kind, Plugin: c.Path, Version: plugin.version(), Notes: notes, client: cl}, nil
}

func openGo(notes []string, opt Options) (rt *Runtime, err error) {
	defer func() {
		if p := recover(); p != nil {
			rt, err = nil, fmt.Errorf("xla: pure-Go backend: %v", p)
		}
	}()
	if opt.Devices > 1 {
		notes = append(notes, fmt.Sprintf("warning: %d virtual devices were asked for, but the pure-Go backend has one", opt.Devices))
	}
	// Node after node, each on all cores: nodes side by side share a pool of workers with the products inside them, and
	// when all workers hold products that wait for workers nothing moves any more (compute v0.1.2).
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		return nil, fmt.Errorf("xla: pure-Go backend: %w", err)
	}
	return &Runtime{Backend: backend, Kind: Go, Version: "pure Go", Notes: notes}, nil
}

// RemedyCommand is the exact command that makes a kind of backend available.
func RemedyCommand(kind string) string {
	switch {
	case kind == CUDA:
		return `python3 -m pip install "jax[cuda13]==0.11.2"`
	case runtime.GOOS == "linux" && runtime.GOARCH == "amd64":
		return "python3 scripts/fetch_plugin.py"
	default:
		return "export " + PluginEnv + "=<path of a pjrt_c_api_cpu_plugin.so for " + runtime.GOOS + "/" + runtime.GOARCH + ">"
	}
}

// Remedy is the same as a clause of a message.
func Remedy(kind string) string {
	if kind == CUDA {
		return "install the CUDA plugin and its libraries with: " + RemedyCommand(CUDA) + " (NVIDIA driver 580 or newer; cuda12 in place of cuda13 for older ones)"
	}
	return "get the CPU plugin with: make setup (or: " + RemedyCommand(CPU) + ")"
}

func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}
