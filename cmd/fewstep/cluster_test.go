package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train/tinypipeline"
)

// nodes runs a command line as the ranks of a cluster. It returns what each wrote and its exit code.
func nodes(t *testing.T, n int, more []string, args ...string) (stdout, stderr []string, codes []int) {
	t.Helper()
	r := startRanks(t, n, more, args...)
	codes = r.wait()
	for rank := range n {
		stdout, stderr = append(stdout, r.outs[rank].String()), append(stderr, r.errs[rank].String())
	}
	return stdout, stderr, codes
}

func TestDoctorCluster(t *testing.T) {
	dir := t.TempDir()
	out, errs, codes := nodes(t, 3, nil, "doctor", "--cluster", "--backend", "go", "--json", "--dir", dir+"/run", "--config", "../../configs/mini/demo.yaml")
	var d clusterDiagnosis
	if err := json.Unmarshal([]byte(out[0]), &d); err != nil || !slices.Equal(codes, []int{0, 0, 0}) || out[1] != "" || out[2] != "" {
		t.Fatalf("codes %v, %v: %s%s", codes, err, out, errs)
	}
	if len(d.Problems) > 0 || len(d.Ranks) != 3 || d.Launcher != "torchrun" || d.Nodes != 3 {
		t.Errorf("%s", out[0])
	}
	for rank, r := range d.Ranks {
		if r.Rank != rank || r.Host == "" || len(r.Binary) != 16 || len(r.Recipe) != 16 || r.Devices != 1 || r.Free <= 0 || r.Folder != dir || r.Trip <= 0 {
			t.Errorf("rank %d: %+v", rank, r)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	out, errs, codes = nodes(t, 3, []string{"2:XLA_FLAGS=--xla_gpu_deterministic_ops=true"}, "doctor", "--cluster", "--backend", "go")
	for rank := range 3 {
		if codes[rank] != exitRefused || !strings.Contains(errs[rank], "XLA_FLAGS differs") || !strings.Contains(errs[rank], "rank 2") {
			t.Errorf("rank %d: code %d, %s", rank, codes[rank], errs[rank])
		}
	}
	if !strings.Contains(out[0], "problem: XLA_FLAGS differs") || !strings.HasPrefix(out[0], "rank  host") {
		t.Errorf("%s", out[0])
	}

	_, errs, codes = nodes(t, 2, []string{"1:RANK=0"}, "doctor", "--cluster", "--backend", "go")
	for rank := range 2 {
		if codes[rank] != exitUsage || !strings.Contains(errs[rank], "is there twice") {
			t.Errorf("two rank 0s: code %d, %s", codes[rank], errs[rank])
		}
	}
}

// What keeps ranks from training together is every rank's error, with the name of the rank that has it.
func TestDoctorClusterFinds(t *testing.T) {
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		t.Skip("folders of single ranks cannot be made here: ", err)
	}
	for name, c := range map[string]struct {
		ranks  int
		script string // of the last rank; DIR is the folder
		args   []string
		want   []string
	}{
		"a folder that is not shared":     {2, "mount -t tmpfs none DIR", nil, []string{"rank 1 (", " is not rank 0's: put the run directory on a file system that all nodes share"}},
		"a folder that cannot be written": {2, "mount --bind DIR DIR; mount -o remount,ro,bind DIR", nil, []string{"rank 1 (", "read-only file system"}},
		"a disk with too little room":     {1, "mount -t tmpfs -o size=1m none DIR", []string{"--config", "../../configs/mini/demo.yaml"}, []string{"rank 0 (", " free, and the run's checkpoints and results take "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			script := fmt.Sprintf("%d:!", c.ranks-1) + strings.ReplaceAll(c.script, "DIR", dir)
			out, errs, codes := nodes(t, c.ranks, []string{script}, append([]string{"doctor", "--cluster", "--backend", "go", "--dir", filepath.Join(dir, "run")}, c.args...)...)
			for rank, code := range codes {
				for _, want := range append(c.want, "cannot train together") {
					if code != exitRefused || !strings.Contains(errs[rank], want) {
						t.Errorf("rank %d: code %d, want %d and %q\n%s", rank, code, exitRefused, want, errs[rank])
					}
				}
			}
			if n := strings.Count(out[0], "problem:"); n != 1 {
				t.Errorf("%d problems\n%s", n, out[0])
			}
		})
	}
}

// Two files of the CPU plugin, of which one has a byte more, are two plugins.
func TestDoctorClusterPlugins(t *testing.T) {
	found := xla.DefaultSearch().Candidates(xla.CPU)
	if len(found) == 0 {
		xlatest.Missing(t, "no CPU plugin")
	}
	real := found[0].Path
	other := filepath.Join(t.TempDir(), "pjrt_c_api_cpu_plugin.so")
	longer(t, real, other)
	_, errs, codes := nodes(t, 2, []string{"0:FEWSTEP_PJRT_PLUGIN=" + real, "1:FEWSTEP_PJRT_PLUGIN=" + other}, "doctor", "--cluster", "--backend", "cpu")
	for rank, code := range codes {
		if code != exitRefused || !strings.Contains(errs[rank], "plugin differs: rank 0 (") {
			t.Errorf("rank %d: code %d\n%s", rank, code, errs[rank])
		}
	}
}

func TestDoctorClusterRules(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{promised(0, 0), ""}, {promised(8, 8), ""}, {promised(0, 8), ""},
		{promised(8, 7), "promises 8 GPUs, and 7 are seen"}, {promised(1, 0), "promises 1 GPUs, and 0 are seen"},
		{clocksApart(mostClockDifference, 0), ""}, {clocksApart(-3*time.Second, time.Second), ""},
		{clocksApart(3*time.Second, 0), "differ by 3s"}, {clocksApart(-time.Hour, time.Second), "differ by 1h0m0s"},
		{tooFull("/runs", 100, 0, 100), ""}, {tooFull("/runs", 100, 60, 40), ""}, {tooFull("/runs", 100, 200, 0), ""},
		{tooFull("/runs", 100e9, 20e9, 50e9), "/runs has "},
	} {
		switch {
		case c.err == nil && c.want != "", c.err != nil && (c.want == "" || !strings.Contains(c.err.Error(), c.want)):
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}

func TestDoctorClusterAlone(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "on one node alone"},
		{[]string{"--nodes", "2"}, "--nodes 2 without --rank"},
		{[]string{"--nodes", "2", "--rank", "1", "--rendezvous", "127.0.0.1:1"}, "FEWSTEP_SECRET"},
		{[]string{"--launcher", "ssh"}, `unknown launcher "ssh"`},
		{[]string{"--launcher", "slurm"}, "the variables of slurm are not set"},
		{[]string{"--peer-timeout", "1ms"}, "--peer-timeout"},
		{[]string{"--stall-timeout", "0s"}, "--stall-timeout"},
		{[]string{"--config", "nowhere.yaml"}, "nowhere.yaml"},
	} {
		if _, errs, code := runCommand(t, append([]string{"doctor", "--cluster"}, c.args...)...); code != exitUsage || !strings.Contains(errs, c.want) {
			t.Errorf("%v: code %d, %s", c.args, code, errs)
		}
	}
	t.Setenv("FEWSTEP_SECRET", "of these tests, and long")
	_, errs, code := runCommand(t, "doctor", "--cluster", "--nodes", "2", "--rank", "1", "--rendezvous", "127.0.0.1:1", "--join-timeout", "300ms")
	if code != exitLost || !strings.Contains(errs, "cannot be reached") || !strings.Contains(errs, "hint: start all ranks again") {
		t.Errorf("code %d, %s", code, errs)
	}
}

// SIGUSR1, which a launcher sends before a job's time is over, stops a run as SIGTERM does, and a second one does it no harm.
func TestUserSignal(t *testing.T) {
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	cmd, out := fewstep(t, "run", recipe, "--backend", "go", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	waitForLines(t, cmd, out, filepath.Join(dir, "stats.jsonl"), 3)
	for range 2 {
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	ended(t, cmd, out, exitInterrupted)
	if !strings.Contains(out.String(), "the same command continues") {
		t.Errorf("%s", out)
	}
}
