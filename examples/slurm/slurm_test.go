// Package slurm tests the batch script on a Slurm of its own: a controller and several slurmd on this machine, as Debian's
// packages slurm-wlm and munge have them. Without these, or without the rights to start them, the tests are skipped.
package slurm

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fewstep/train/tinypipeline"
)

// slurm is a running Slurm.
type slurm struct {
	t      *testing.T
	dir    string
	binary string // fewstep
}

const fakeNodes = 3

// start starts a Slurm of some nodes, each with one fake GPU. Nodes are named by addresses of this machine, so that their
// names can be looked up.
func start(t *testing.T) *slurm {
	t.Helper()
	for _, program := range []string{"munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: apt-get install slurm-wlm munge", err)
		}
	}
	self, err := user.Current()
	if err != nil || self.Uid != "0" {
		t.Skip("slurmd starts jobs as root only")
	}
	s := &slurm{t: t, dir: t.TempDir()}
	s.binary = filepath.Join(s.dir, "fewstep")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", s.binary, "../../cmd/fewstep").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ports := make([]int, fakeNodes+1)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	conf := fmt.Sprintf(`ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=%d
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=%[2]s/munge.socket
CredType=cred/munge
SlurmctldPidFile=%[2]s/slurmctld.pid
SlurmdPidFile=%[2]s/slurmd-%%n.pid
SlurmdSpoolDir=%[2]s/spool-%%n
StateSaveLocation=%[2]s/state
SlurmctldLogFile=%[2]s/slurmctld.log
SlurmdLogFile=%[2]s/slurmd-%%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
KillWait=20
GresTypes=gpu
`, ports[0], s.dir)
	for i := range fakeNodes {
		conf += fmt.Sprintf("NodeName=%s NodeHostname=localhost NodeAddr=127.0.0.1 Port=%d CPUs=1 Gres=gpu:1 State=UNKNOWN\n", node(i), ports[i+1])
	}
	conf += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
	key := make([]byte, 128)
	rand.Read(key)
	for name, content := range map[string]string{"slurm.conf": conf, "gres.conf": "Name=gpu File=/dev/null\n", "munge.key": string(key)} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"state", "work"} {
		if err := os.Mkdir(filepath.Join(s.dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.daemon("munged", "--foreground", "--force", "--key-file="+s.path("munge.key"), "--socket="+s.path("munge.socket"),
		"--pid-file="+s.path("munged.pid"), "--log-file="+s.path("munged.log"), "--seed-file="+s.path("munged.seed"))
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(s.path("munge.socket")); err == nil {
			break
		} else if time.Since(start) > 10*time.Second {
			t.Fatal(err)
		}
	}
	s.daemon("slurmctld", "-D", "-f", s.path("slurm.conf"))
	for i := range fakeNodes {
		s.daemon("slurmd", "-D", "-N", node(i), "-f", s.path("slurm.conf"))
	}
	s.until(30*time.Second, func() bool {
		out, _ := s.try("sinfo", "--noheader", "--format=%D %t")
		return strings.TrimSpace(out) == fmt.Sprintf("%d idle", fakeNodes)
	})
	return s
}

func node(i int) string { return fmt.Sprintf("127.0.0.%d", i+1) }

func (s *slurm) path(name string) string { return filepath.Join(s.dir, name) }

// daemon runs a program until the test ends.
func (s *slurm) daemon(name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SLURM_CONF="+s.path("slurm.conf"))
	log, err := os.Create(s.path(fmt.Sprintf("%s-%d.out", name, len(args)+time.Now().Nanosecond())))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
	})
}

// try runs a program of Slurm's.
func (s *slurm) try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.path("work")
	cmd.Env = append(os.Environ(), "SLURM_CONF="+s.path("slurm.conf"), "FEWSTEP="+s.binary, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *slurm) run(name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return out
}

func (s *slurm) until(limit time.Duration, ready func() bool) {
	s.t.Helper()
	for start := time.Now(); !ready(); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > limit {
			out, _ := s.try("scontrol", "show", "job")
			s.t.Fatalf("not within %v\n%s\n%s\n%s", limit, out, s.log("slurmctld.log"), s.log("work/*.log"))
		}
	}
}

// log is what files of the test hold.
func (s *slurm) log(pattern string) string {
	var out string
	names, _ := filepath.Glob(s.path(pattern))
	for _, name := range names {
		b, _ := os.ReadFile(name)
		out += string(b)
	}
	return out
}

// submit queues the batch script, as it is, and returns its job.
func (s *slurm) submit(args ...string) string {
	s.t.Helper()
	script, err := filepath.Abs("distil.sbatch")
	if err != nil {
		s.t.Fatal(err)
	}
	for i, a := range args {
		if a == "distil.sbatch" {
			args[i] = script
		}
	}
	return strings.TrimSpace(s.run("sbatch", append([]string{"--parsable"}, args...)...))
}

var field = regexp.MustCompile(`(\w+)=(\S+)`)

// job tells a job's state, exit code and how often it was started again.
func (s *slurm) job(id string) (state, code, restarts string) {
	for _, m := range field.FindAllStringSubmatch(s.run("scontrol", "show", "job", id), -1) {
		switch m[1] {
		case "JobState":
			state = m[2]
		case "ExitCode":
			code = m[2]
		case "Restarts":
			restarts = m[2]
		}
	}
	return state, code, restarts
}

// ended waits for a job's end.
func (s *slurm) ended(id string, limit time.Duration) (state, code, restarts string) {
	s.t.Helper()
	s.until(limit, func() bool {
		state, code, restarts = s.job(id)
		return state == "COMPLETED" || state == "FAILED" || state == "CANCELLED"
	})
	return state, code, restarts
}

func recipe(t *testing.T) string {
	t.Helper()
	path, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// The script's run is told that its time is nearly over, saves, queues itself again, loses its node's process, queues itself
// again, and ends.
func TestRequeue(t *testing.T) {
	s := start(t)
	dir := s.path("run")
	id := s.submit("distil.sbatch", recipe(t), dir, "--backend", "go")
	updates := func(n int) {
		t.Helper()
		s.until(2*time.Minute, func() bool { return strings.Count(s.log("run/stats.jsonl"), "\n") >= n })
	}
	updates(3)
	s.run("scancel", "--signal=USR1", id) // to the step, as --signal=USR1@90 does
	s.requeued(id, "1")
	if log := s.log("work/*.log"); !strings.Contains(log, "interrupted; the state is saved") || !strings.Contains(log, "ended with code 3") {
		t.Errorf("%s", log)
	}
	updates(12)
	s.kill(dir)
	s.requeued(id, "2")
	state, code, restarts := s.ended(id, 5*time.Minute)
	if state != "COMPLETED" || code != "0:0" || restarts != "2" {
		t.Errorf("%s, code %s, %s restarts\n%s\n%s", state, code, restarts, s.log("work/*.log"), s.log("slurm*.log"))
	}
	if log := s.log("work/*.log"); strings.Count(log, "continuing") < 2 || !strings.Contains(log, "report/index.html") {
		t.Errorf("%s", log)
	}
}

// requeued waits until a job is queued again, and starts it, which Slurm does two minutes later.
func (s *slurm) requeued(id, times string) {
	s.t.Helper()
	s.until(time.Minute, func() bool {
		state, _, restarts := s.job(id)
		return restarts == times && state == "PENDING"
	})
	s.run("scontrol", "update", "JobId="+id, "StartTime=now+5") // what ran before is revoked by the second
}

// kill kills the process that trains in a run directory.
func (s *slurm) kill(dir string) {
	s.t.Helper()
	var pid int
	raw, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err == nil {
		_, err = fmt.Sscan(string(raw), &pid)
	}
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Mistakes are not tried again, and a job that is cancelled stays so.
func TestNoRequeue(t *testing.T) {
	s := start(t)
	id := s.submit("distil.sbatch", "nowhere.yaml", s.path("run"))
	if state, code, restarts := s.ended(id, time.Minute); state != "FAILED" || code != "2:0" || restarts != "0" {
		t.Errorf("%s, code %s, %s restarts\n%s\n%s", state, code, restarts, s.log("work/*.log"), s.log("slurm*.log"))
	}
	id = s.submit("distil.sbatch", recipe(t), s.path("run"), "--backend", "go")
	s.until(2*time.Minute, func() bool { return strings.Count(s.log("run/stats.jsonl"), "\n") >= 3 })
	s.run("scancel", id)
	if state, _, restarts := s.ended(id, time.Minute); state != "CANCELLED" || restarts != "0" {
		t.Errorf("%s, %s restarts\n%s", state, restarts, s.log("work/*.log"))
	}
}

// Ranks on several nodes find each other by what srun tells, doctor compares them, and they train together. One is killed while
// doctor compares, and one of the next start while they train: each time the others end and the job queues itself again, and
// the run goes on to its end. No GPUs are promised, which doctor would miss.
func TestSeveralNodes(t *testing.T) {
	s := start(t)
	s.killsDoctor(1)
	id := s.submit("--nodes", fmt.Sprint(fakeNodes), "--gpus-per-node", "0", "distil.sbatch", recipe(t), s.path("run"), "--backend", "go", "--set", "train.batch=6", "--until", "8",
		"--set", "stages.8.phases.lora-cond.samples=120", "--peer-timeout", "5s")
	s.requeued(id, "1")
	if log := s.log("work/*.log"); !strings.Contains(log, "rank 1 ("+node(1)+") did not come within") || strings.Contains(log, "all ranks are there") {
		t.Errorf("%s", log)
	}
	s.until(2*time.Minute, func() bool { return strings.Count(s.log("run/stats.jsonl"), "\n") >= 12 })
	victim := s.rank(1)
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.requeued(id, "2")
	state, code, restarts := s.ended(id, 4*time.Minute)
	log := s.log("work/*.log")
	for _, want := range []string{"3 nodes by slurm, rendezvous 127.0.0.1:6", "every rank reaches every other", node(2), "all ranks are there", "rank 1 (" + node(1) + ")",
		"was lost", "the job queues itself again", "continuing", "8 full-uncond 6/6 100%"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if state != "COMPLETED" || code != "0:0" || restarts != "2" || t.Failed() {
		t.Errorf("%s, code %s, %s restarts\n%s", state, code, restarts, log)
	}
}

// killsDoctor has a rank's first process of doctor killed; the others do not wait long for it.
func (s *slurm) killsDoctor(rank int) {
	s.t.Helper()
	script := fmt.Sprintf(`#!/bin/sh
[ "$1" = doctor ] && [ -z "$SLURM_RESTART_COUNT" ] || exec %[1]s "$@"
[ "$SLURM_PROCID" = %[2]d ] && kill -9 $$
exec %[1]s "$@" --join-timeout 2s
`, s.binary, rank)
	s.binary = s.path("killed")
	if err := os.WriteFile(s.binary, []byte(script), 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// rank is the process of a rank of this test's run.
func (s *slurm) rank(n int) int {
	s.t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range found {
		env, _ := os.ReadFile(path)
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		if bytes.Contains(line, []byte(s.path("run")+"\x00")) && bytes.Contains(line, []byte("\x00run\x00")) && bytes.Contains(env, fmt.Appendf(nil, "SLURM_PROCID=%d\x00", n)) &&
			bytes.Contains(env, []byte("SLURM_STEP_NUM_TASKS=")) && !bytes.Contains(line, []byte("srun")) && !bytes.Contains(line, []byte("bash")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	s.t.Fatalf("no process of rank %d", n)
	return 0
}
