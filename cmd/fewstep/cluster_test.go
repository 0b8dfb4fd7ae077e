package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

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
