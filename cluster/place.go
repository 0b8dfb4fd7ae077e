package cluster

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// Launchers that Detect knows, in the order in which it looks for them: the innermost of launchers that start each other
// comes first.
const (
	LauncherAuto     = "auto"
	LauncherNone     = "none"
	LauncherTorchrun = "torchrun"
	LauncherSkyPilot = "skypilot"
	LauncherOpenMPI  = "openmpi"
	LauncherSlurm    = "slurm"
)

// Launchers lists what Given.Launcher may be.
func Launchers() []string {
	return []string{LauncherAuto, LauncherNone, LauncherTorchrun, LauncherSkyPilot, LauncherOpenMPI, LauncherSlurm}
}

// DefaultPort is rank 0's where neither the launcher nor the user names one.
const DefaultPort = 29431

// Place is where a process stands among those of its run.
type Place struct {
	Rank     int
	Nodes    int      // number of processes, one per node; 1 = there is no cluster
	Address  string   // host:port of rank 0's rendezvous
	Attempt  int      // how often the launcher has started the job again
	Launcher string   // that told, one of Launchers; LauncherNone where flags alone did
	Hosts    []string // by rank, for messages; nil where the launcher does not tell
	GPUs     int      // of this node, as the launcher says; 0 = it does not
	Job      string   // the launcher's name of the job, "" where it has none
}

// Given is what the user says on the command line. It overrides what a launcher says.
type Given struct {
	Launcher string // one of Launchers; "" = auto
	Nodes    int    // 0 = not given
	Rank     int    // used where Ranked
	Ranked   bool   // Rank is given
	Address  string // host:port or host; "" = not given
}

// Detect tells where this process stands. Flags go first, then the variables of the launcher, in this order where there are
// several: torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), SkyPilot (SKYPILOT_NODE_RANK, SKYPILOT_NODE_IPS),
// OpenMPI (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE), and Slurm's job steps (SLURM_STEP_ID, SLURM_PROCID,
// SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST). A batch script's own process is no job step, so that a command in it
// without srun runs alone.
//
// Without any of them the place is rank 0 of 1. Errors are a *Failure with CodeMisplaced; they name the variable or flag.
func Detect(given Given, env func(string) string) (Place, error) {
	p, err := detect(given, env)
	if err != nil {
		return p, &Failure{Rank: -1, Code: CodeMisplaced, Text: err.Error()}
	}
	return p, nil
}

// reader makes a Place of one launcher's variables. found is false where the launcher did not start this process.
type reader func(v *variables) (p Place, found bool)

var readers = []struct {
	name string
	read reader
}{
	{LauncherTorchrun, readTorchrun},
	{LauncherSkyPilot, readSkyPilot},
	{LauncherOpenMPI, readOpenMPI},
	{LauncherSlurm, readSlurm},
}

func detect(given Given, env func(string) string) (Place, error) {
	p := Place{Nodes: 1, Launcher: LauncherNone}
	found := false
	for _, r := range readers {
		if given.Launcher != r.name && given.Launcher != LauncherAuto && given.Launcher != "" {
			continue
		}
		v := &variables{env: env}
		told, ok := r.read(v)
		if v.err != nil {
			return p, fmt.Errorf("%s: %w", r.name, v.err)
		}
		if ok {
			p, found = told, true
			p.Launcher = r.name
			break
		}
	}
	switch {
	case !found && given.Launcher != "" && given.Launcher != LauncherAuto && given.Launcher != LauncherNone:
		return p, fmt.Errorf("--launcher %s, but the variables of %s are not set", given.Launcher, given.Launcher)
	case given.Nodes < 0:
		return p, fmt.Errorf("--nodes %d: there is at least one node", given.Nodes)
	case found && given.Nodes > 0 && given.Nodes != p.Nodes:
		return p, fmt.Errorf("--nodes %d, but %s started %d processes; leave the flag out, or give --launcher none with --nodes, --rank and --rendezvous",
			given.Nodes, p.Launcher, p.Nodes)
	case found && given.Ranked && given.Rank != p.Rank:
		return p, fmt.Errorf("--rank %d, but %s says that this is rank %d; leave the flag out, or give --launcher none with --nodes, --rank and --rendezvous",
			given.Rank, p.Launcher, p.Rank)
	}
	if given.Nodes > 0 {
		p.Nodes = given.Nodes
	}
	if given.Ranked {
		p.Rank = given.Rank
	}
	if !found {
		switch {
		case given.Nodes > 1 && !given.Ranked:
			return p, fmt.Errorf("--nodes %d without --rank: say which of the nodes this is", given.Nodes)
		case given.Nodes == 0 && given.Ranked:
			return p, fmt.Errorf("--rank %d without --nodes: say how many nodes there are", given.Rank)
		case given.Nodes == 0 && given.Address != "":
			return p, fmt.Errorf("--rendezvous without --nodes and --rank")
		}
	}
	if p.Nodes < 1 || p.Rank < 0 || p.Rank >= p.Nodes {
		return p, fmt.Errorf("rank %d of %d: ranks are 0 to %d", p.Rank, p.Nodes, p.Nodes-1)
	}
	if given.Address != "" {
		port := DefaultPort
		if _, known, err := net.SplitHostPort(p.Address); err == nil {
			port, _ = strconv.Atoi(known)
		}
		var err error
		if p.Address, err = withPort(given.Address, port); err != nil {
			return p, fmt.Errorf("--rendezvous %w", err)
		}
	}
	if p.Nodes > 1 && p.Address == "" {
		return p, fmt.Errorf("the address of rank 0 is not known: give --rendezvous host:port, the same on all ranks")
	}
	return p, nil
}

// withPort completes "host" to "host:port" and checks "host:port".
func withPort(address string, port int) (string, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		if strings.Contains(address, ":") && net.ParseIP(address) == nil {
			return "", fmt.Errorf("%q is not host:port", address)
		}
		host, text = address, strconv.Itoa(port)
	}
	if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("%q: the port is a number from 1 to 65535", address)
	}
	if host == "" {
		return "", fmt.Errorf("%q lacks the host of rank 0", address)
	}
	return net.JoinHostPort(host, text), nil
}

// variables reads a launcher's variables; the first that cannot be read is err.
type variables struct {
	env func(string) string
	err error
}

func (v *variables) text(name string) string { return strings.TrimSpace(v.env(name)) }

func (v *variables) fail(format string, args ...any) {
	if v.err == nil {
		v.err = fmt.Errorf(format, args...)
	}
}

// number reads a count or an index; missing is an error unless otherwise is not negative.
func (v *variables) number(name string, otherwise int) int {
	text := v.text(name)
	if text == "" {
		if otherwise < 0 {
			v.fail("%s is not set", name)
		}
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		v.fail("%s=%q is not a count", name, text)
	}
	return n
}

// onePerNode refuses several processes on a node: one drives all its GPUs.
func (v *variables) onePerNode(name string, remedy string) {
	if n := v.number(name, 1); n > 1 {
		v.fail("%s=%d, but fewstep is one process per node, which uses all of its GPUs: %s", name, n, remedy)
	}
}

func readTorchrun(v *variables) (p Place, found bool) {
	if v.text("RANK") == "" && v.text("WORLD_SIZE") == "" {
		return p, false
	}
	p.Rank, p.Nodes = v.number("RANK", -1), v.number("WORLD_SIZE", -1)
	v.onePerNode("LOCAL_WORLD_SIZE", "start torchrun with --nproc-per-node 1")
	p.Attempt = v.number("TORCHELASTIC_RESTART_COUNT", 0)
	if host := v.text("MASTER_ADDR"); host != "" {
		port := v.number("MASTER_PORT", DefaultPort)
		// The agent of torchrun itself listens there.
		if v.text("TORCHELASTIC_USE_AGENT_STORE") == "True" {
			port++
		}
		p.Address = v.address("MASTER_ADDR and MASTER_PORT", host, port)
	}
	p.Job = v.text("TORCHELASTIC_RUN_ID")
	return p, true
}

func (v *variables) address(names, host string, port int) string {
	a, err := withPort(net.JoinHostPort(host, strconv.Itoa(port)), port)
	if err != nil {
		v.fail("%s: %w", names, err)
	}
	return a
}

func readSkyPilot(v *variables) (p Place, found bool) {
	if v.text("SKYPILOT_NODE_RANK") == "" {
		return p, false
	}
	p.Hosts = strings.Fields(v.text("SKYPILOT_NODE_IPS"))
	if len(p.Hosts) == 0 {
		v.fail("SKYPILOT_NODE_IPS is not set")
		return p, true
	}
	p.Rank = v.number("SKYPILOT_NODE_RANK", -1)
	if p.Nodes = v.number("SKYPILOT_NUM_NODES", len(p.Hosts)); p.Nodes != len(p.Hosts) {
		v.fail("SKYPILOT_NUM_NODES=%d, but SKYPILOT_NODE_IPS has %d addresses", p.Nodes, len(p.Hosts))
	}
	p.GPUs = v.number("SKYPILOT_NUM_GPUS_PER_NODE", 0)
	p.Address = v.address("SKYPILOT_NODE_IPS", p.Hosts[0], DefaultPort)
	p.Job = v.text("SKYPILOT_TASK_ID")
	return p, true
}

func readOpenMPI(v *variables) (p Place, found bool) {
	if v.text("OMPI_COMM_WORLD_RANK") == "" {
		return p, false
	}
	p.Rank, p.Nodes = v.number("OMPI_COMM_WORLD_RANK", -1), v.number("OMPI_COMM_WORLD_SIZE", -1)
	v.onePerNode("OMPI_COMM_WORLD_LOCAL_SIZE", "start mpirun with --map-by ppr:1:node")
	if host := v.text("MASTER_ADDR"); host != "" {
		p.Address = v.address("MASTER_ADDR and MASTER_PORT", host, v.number("MASTER_PORT", DefaultPort))
	}
	return p, true
}

func readSlurm(v *variables) (p Place, found bool) {
	// The batch step has SLURM_PROCID=0 too, but no other process beside it: only srun's steps count.
	if v.text("SLURM_STEP_ID") == "" || v.text("SLURM_STEP_NUM_TASKS") == "" {
		return p, false
	}
	p.Rank, p.Nodes = v.number("SLURM_PROCID", -1), v.number("SLURM_STEP_NUM_TASKS", -1)
	p.Attempt = v.number("SLURM_RESTART_COUNT", 0)
	p.Job = v.text("SLURM_JOB_ID")
	if per := v.text("SLURM_STEP_TASKS_PER_NODE"); per != "" { // "1(x4)", "2,1"
		for part := range strings.SplitSeq(per, ",") {
			if n, _, _ := strings.Cut(part, "("); n != "1" {
				v.fail("SLURM_STEP_TASKS_PER_NODE=%s, but fewstep is one process per node, which uses all of its GPUs: give srun --ntasks-per-node=1", per)
				break
			}
		}
	}
	list := v.text("SLURM_STEP_NODELIST")
	if list == "" {
		list = v.text("SLURM_JOB_NODELIST")
	}
	hosts, err := expandHosts(list)
	if err != nil {
		v.fail("SLURM_STEP_NODELIST: %w", err)
		return p, true
	}
	if len(hosts) == 0 {
		v.fail("SLURM_STEP_NODELIST is not set")
		return p, true
	}
	if len(hosts) == p.Nodes {
		p.Hosts = hosts
	}
	p.GPUs = v.number("SLURM_GPUS_ON_NODE", 0)
	p.Address = v.address("SLURM_STEP_NODELIST", hosts[0], slurmPort(v.number("SLURM_JOB_ID", 0)))
	return p, true
}

// slurmPort differs between jobs that share a node, as JAX chooses it.
func slurmPort(job int) int { return 61440 + job%4096 }

// Host is this machine's name, as messages and checks show it.
func Host() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
