package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func env(vars ...string) func(string) string {
	return func(name string) string {
		for _, v := range vars {
			if n, value, _ := strings.Cut(v, "="); n == name {
				return value
			}
		}
		return ""
	}
}

var (
	slurmVars = []string{"SLURM_STEP_ID=0", "SLURM_PROCID=2", "SLURM_STEP_NUM_TASKS=4", "SLURM_STEP_TASKS_PER_NODE=1(x4)",
		"SLURM_STEP_NODELIST=gpu[07-09,12]", "SLURM_JOB_ID=4711", "SLURM_RESTART_COUNT=3", "SLURM_GPUS_ON_NODE=8"}
	torchVars = []string{"RANK=1", "WORLD_SIZE=2", "LOCAL_WORLD_SIZE=1", "MASTER_ADDR=10.0.0.1", "MASTER_PORT=29500", "TORCHELASTIC_RESTART_COUNT=1"}
	skyVars   = []string{"SKYPILOT_NODE_RANK=1", "SKYPILOT_NODE_IPS=10.0.0.1\n10.0.0.2\n", "SKYPILOT_NUM_NODES=2", "SKYPILOT_NUM_GPUS_PER_NODE=4"}
	mpiVars   = []string{"OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_SIZE=1"}
)

func TestDetect(t *testing.T) {
	for _, c := range []struct {
		name  string
		given Given
		env   []string
		want  Place
	}{
		{name: "nothing", want: Place{Nodes: 1, Launcher: LauncherNone}},
		{name: "flags", given: Given{Nodes: 2, Rank: 1, Ranked: true, Address: "a"}, want: Place{Rank: 1, Nodes: 2, Address: "a:29431", Launcher: LauncherNone}},
		{name: "Slurm", env: slurmVars, want: Place{Rank: 2, Nodes: 4, Address: "gpu07:62055", Attempt: 3, Launcher: LauncherSlurm, GPUs: 8, Job: "4711"}},
		{name: "Slurm with another port", given: Given{Address: "ib07:5000"}, env: slurmVars, want: Place{Rank: 2, Nodes: 4, Address: "ib07:5000", Attempt: 3, Launcher: LauncherSlurm, GPUs: 8, Job: "4711"}},
		{name: "Slurm's port at another address", given: Given{Address: "ib07"}, env: slurmVars, want: Place{Rank: 2, Nodes: 4, Address: "ib07:62055", Attempt: 3, Launcher: LauncherSlurm, GPUs: 8, Job: "4711"}},
		{name: "a batch script without srun", env: []string{"SLURM_PROCID=0", "SLURM_NTASKS=4", "SLURM_JOB_NODELIST=gpu[1-4]"}, want: Place{Nodes: 1, Launcher: LauncherNone}},
		{name: "torchrun in Slurm", env: slices.Concat(slurmVars, torchVars), want: Place{Rank: 1, Nodes: 2, Address: "10.0.0.1:29500", Attempt: 1, Launcher: LauncherTorchrun}},
		{name: "torchrun whose agent has the port", env: slices.Concat(torchVars, []string{"TORCHELASTIC_USE_AGENT_STORE=True", "TORCHELASTIC_RUN_ID=x"}), want: Place{Rank: 1, Nodes: 2, Address: "10.0.0.1:29501", Attempt: 1, Launcher: LauncherTorchrun, Job: "x"}},
		{name: "Slurm asked for", given: Given{Launcher: LauncherSlurm}, env: slices.Concat(slurmVars, torchVars), want: Place{Rank: 2, Nodes: 4, Address: "gpu07:62055", Attempt: 3, Launcher: LauncherSlurm, GPUs: 8, Job: "4711"}},
		{name: "none asked for", given: Given{Launcher: LauncherNone}, env: slurmVars, want: Place{Nodes: 1, Launcher: LauncherNone}},
		{name: "SkyPilot", env: skyVars, want: Place{Rank: 1, Nodes: 2, Address: "10.0.0.1:29431", Launcher: LauncherSkyPilot, GPUs: 4}},
		{name: "OpenMPI", given: Given{Address: "[fd00::1]:7"}, env: mpiVars, want: Place{Rank: 1, Nodes: 2, Address: "[fd00::1]:7", Launcher: LauncherOpenMPI}},
		{name: "flags that agree", given: Given{Nodes: 2, Rank: 1, Ranked: true}, env: torchVars, want: Place{Rank: 1, Nodes: 2, Address: "10.0.0.1:29500", Attempt: 1, Launcher: LauncherTorchrun}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Detect(c.given, env(c.env...))
			if err != nil {
				t.Fatal(err)
			}
			hosts := got.Hosts
			got.Hosts = nil
			if got.Rank != c.want.Rank || got.Nodes != c.want.Nodes || got.Address != c.want.Address || got.Attempt != c.want.Attempt ||
				got.Launcher != c.want.Launcher || got.GPUs != c.want.GPUs || got.Job != c.want.Job {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.Launcher == LauncherSlurm && !slices.Equal(hosts, []string{"gpu07", "gpu08", "gpu09", "gpu12"}) {
				t.Errorf("hosts %v", hosts)
			}
		})
	}
}

func TestDetectRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		given Given
		env   []string
		want  string
	}{
		{"rank beyond", Given{Nodes: 2, Rank: 2, Ranked: true, Address: "a"}, nil, "rank 2 of 2: ranks are 0 to 1"},
		{"negative rank", Given{Nodes: 2, Rank: -1, Ranked: true, Address: "a"}, nil, "rank -1 of 2"},
		{"nodes alone", Given{Nodes: 2}, nil, "--nodes 2 without --rank"},
		{"negative nodes", Given{Nodes: -2}, nil, "--nodes -2"},
		{"rank alone", Given{Rank: 1, Ranked: true}, nil, "--rank 1 without --nodes"},
		{"address alone", Given{Address: "a:1"}, nil, "--rendezvous without"},
		{"no address", Given{Nodes: 2, Ranked: true}, nil, "--rendezvous host:port"},
		{"address without host", Given{Nodes: 2, Ranked: true, Address: ":5"}, nil, "lacks the host"},
		{"port", Given{Nodes: 2, Ranked: true, Address: "a:70000"}, nil, "1 to 65535"},
		{"two colons", Given{Nodes: 2, Ranked: true, Address: "a:b:c"}, nil, "is not host:port"},
		{"another count than torchrun's", Given{Nodes: 4}, torchVars, "--nodes 4, but torchrun started 2"},
		{"another rank than torchrun's", Given{Rank: 0, Ranked: true}, torchVars, "--rank 0, but torchrun says that this is rank 1"},
		{"a launcher that is not there", Given{Launcher: LauncherSlurm}, nil, "--launcher slurm, but"},
		{"half of torchrun", Given{}, []string{"RANK=0"}, "WORLD_SIZE is not set"},
		{"nonsense", Given{}, []string{"RANK=first", "WORLD_SIZE=2"}, `RANK="first" is not a count`},
		{"torchrun beyond", Given{}, []string{"RANK=2", "WORLD_SIZE=2", "MASTER_ADDR=a"}, "rank 2 of 2"},
		{"a process per GPU", Given{}, []string{"RANK=2", "WORLD_SIZE=16", "LOCAL_WORLD_SIZE=8", "MASTER_ADDR=a"}, "one process per node"},
		{"mpirun per GPU", Given{}, []string{"OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_LOCAL_SIZE=2"}, "ppr:1:node"},
		{"mpirun without address", Given{}, mpiVars, "--rendezvous host:port"},
		{"srun per GPU", Given{}, slices.Concat([]string{"SLURM_STEP_TASKS_PER_NODE=2(x2)"}, slurmVars), "--ntasks-per-node=1"},
		{"srun's bad list", Given{}, slices.Concat([]string{"SLURM_STEP_NODELIST=gpu[1-"}, slurmVars), "a bracket is not closed"},
		{"SkyPilot without addresses", Given{}, []string{"SKYPILOT_NODE_RANK=0"}, "SKYPILOT_NODE_IPS is not set"},
		{"SkyPilot that disagrees", Given{}, slices.Concat([]string{"SKYPILOT_NUM_NODES=3"}, skyVars), "SKYPILOT_NODE_IPS has 2 addresses"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Detect(c.given, env(c.env...))
			var f *Failure
			if !errors.As(err, &f) || f.Code != CodeMisplaced || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v; want %q", p, err, c.want)
			}
		})
	}
}

func TestExpandHosts(t *testing.T) {
	for list, want := range map[string]string{
		"":                         "",
		"a":                        "a",
		"a,b-1":                    "a b-1",
		"gpu[08-10]":               "gpu08 gpu09 gpu10",
		"x,gpu[1,3-4]-ib,y":        "x gpu1-ib gpu3-ib gpu4-ib y",
		"r[1-2]n[0-1]":             "r1n0 r1n1 r2n0 r2n1",
		"a.cluster.example,b[001]": "a.cluster.example b001",
	} {
		got, err := expandHosts(list)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, bad := range []string{"a[1", "a[2-1]", "a[x]", "a[]", "a,,b", "a]", "a[1-999999999]", "a[-1]", "a[0-65535]b[0-9]"} {
		if got, err := expandHosts(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func FuzzExpandHosts(f *testing.F) {
	f.Add("gpu[01-03,7],login")
	f.Fuzz(func(t *testing.T, list string) {
		hosts, err := expandHosts(list)
		if err == nil && (len(hosts) > mostHosts || slices.Contains(hosts, "")) {
			t.Errorf("%q: %v", list, hosts)
		}
	})
}

func TestSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("of the file, which is long\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	slurm := Place{Launcher: LauncherSlurm, Job: "7"}
	for _, c := range []struct {
		name, file string
		env        []string
		place      Place
		want       string
		weak       bool
	}{
		{name: "flag before variable", file: file, env: []string{SecretEnv + "=of the variable, long"}, want: "of the file, which is long"},
		{name: "variable before its file", env: []string{SecretEnv + "=of the variable, long", SecretFileEnv + "=" + file}, want: "of the variable, long"},
		{name: "file of a variable", env: []string{SecretFileEnv + "=" + file}, want: "of the file, which is long"},
		{name: "Slurm's", place: slurm, want: "slurm 7", weak: true},
		{name: "better than Slurm's", place: slurm, env: []string{SecretFileEnv + "=" + file}, want: "of the file, which is long"},
	} {
		got, weak, err := Secret(c.file, c.place, env(c.env...))
		if err != nil || !strings.HasPrefix(string(got), c.want) || weak != c.weak {
			t.Errorf("%s: %q, %v, %v", c.name, got, weak, err)
		}
	}
	for name, c := range map[string]struct {
		file string
		env  []string
		want string
	}{
		"none":         {"", nil, SecretEnv},
		"short":        {"", []string{SecretEnv + "=hunter2"}, "at least 16"},
		"missing file": {file + "2", nil, file + "2"},
	} {
		if _, _, err := Secret(c.file, Place{}, env(c.env...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, _, _ := Secret("", slurm, env()); a != nil {
		if b, _, _ := Secret("", Place{Launcher: LauncherSlurm, Job: "8"}, env()); string(a) == string(b) {
			t.Error("two jobs have the same secret")
		}
	}
}
