package main

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fewstep/data/images"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/weights"
	"fewstep/model/weights/weightstest"
	"fewstep/train/monitor"
	"fewstep/train/tinypipeline"
)

// ranks are processes of one run.
type ranks struct {
	cmds []*exec.Cmd
	outs []*bytes.Buffer // stdout
	errs []*bytes.Buffer
}

// startRanks starts a command line as the ranks of a cluster, each in a process of its own; more are variables of single ranks,
// as "2:NAME=value"; "1:+ARGUMENT" is one more argument of rank 1, "1:+=FOLDER" the folder in which it is started, "1:@FILE"
// the program in place of this one, and "1:!SCRIPT" a shell script that is run before it, both in a mount namespace of their own.
func startRanks(t *testing.T, n int, more []string, args ...string) *ranks {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	r := &ranks{}
	for rank := range n {
		own, env, folder, script, program := slices.Clone(args), []string{}, "", "", ""
		for _, v := range more {
			who, v, _ := strings.Cut(v, ":")
			if who != fmt.Sprint(rank) {
				continue
			}
			if in, ok := strings.CutPrefix(v, "+="); ok {
				folder = in
			} else if path, ok := strings.CutPrefix(v, "@"); ok {
				program = path
			} else if before, ok := strings.CutPrefix(v, "!"); ok {
				script = before
			} else if argument, ok := strings.CutPrefix(v, "+"); ok {
				own = append(own, argument)
			} else {
				env = append(env, v)
			}
		}
		cmd, _ := fewstep(t, own...)
		if program != "" {
			cmd.Path = program
		}
		if script != "" {
			with := exec.Command("unshare", append([]string{"--mount", "bash", "-ec", script + `; exec -a fewstep "$0" "$@"`, cmd.Path}, own...)...)
			with.Env = cmd.Env
			cmd = with
		}
		cmd.Env = append(cmd.Env, "FEWSTEP_SECRET=of these tests, and long", fmt.Sprintf("RANK=%d", rank), fmt.Sprintf("WORLD_SIZE=%d", n), "MASTER_ADDR="+host, "MASTER_PORT="+port)
		if togetherBackend() == xla.CUDA {
			env = append(env, fmt.Sprintf("CUDA_VISIBLE_DEVICES=%d", rank))
		}
		cmd.Env, cmd.Dir = append(cmd.Env, env...), folder
		r.outs, r.errs = append(r.outs, &bytes.Buffer{}), append(r.errs, &bytes.Buffer{})
		cmd.Stdout, cmd.Stderr = r.outs[rank], r.errs[rank]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		r.cmds = append(r.cmds, cmd)
	}
	return r
}

// wait waits for all and returns their exit codes, -1 of one that was killed.
func (r *ranks) wait() (codes []int) {
	for _, cmd := range r.cmds {
		_ = cmd.Wait()
		codes = append(codes, cmd.ProcessState.ExitCode())
	}
	return codes
}

// ended waits for all, which must end with one code.
func (r *ranks) ended(t *testing.T, code int) {
	t.Helper()
	for rank, got := range r.wait() {
		if got != code {
			t.Fatalf("rank %d: exit code %d, want %d\n%s", rank, got, code, r.text())
		}
	}
}

func (r *ranks) text() string {
	var b strings.Builder
	for rank := range r.cmds {
		fmt.Fprintf(&b, "rank %d: %s%s", rank, r.outs[rank], r.errs[rank])
	}
	return b.String()
}

// shared is a short run over several processes.
type shared struct{ recipe string }

// sharedLadder hands on adapters, a merged model, full weights and a discriminator; every update of the first phase is saved.
const sharedLadder = `stages:
  - {name: "8", teacher_steps: 16, phases: [{name: lora-cond, samples: 60, lr: 3e-4}, {name: merge}, {name: full-uncond, samples: 40, lr: 3e-4}]}
`

func newShared(t *testing.T) *shared {
	t.Helper()
	if testing.Short() {
		t.Skip("walks a ladder several times")
	}
	if togetherBackend() == xla.CUDA {
		t.Setenv("NVIDIA_TF32_OVERRIDE", "0")
		t.Setenv("XLA_FLAGS", os.Getenv("XLA_FLAGS")+" --xla_gpu_enable_triton_gemm=false")
	}
	return &shared{tinyRecipe(t, sharedLadder)}
}

// togetherEnv names the backend of these tests where it is not the pure-Go one, whose ranks add up through their hosts' memory.
// With cuda each rank takes the GPU of its number, and they add up by NCCL: two GPUs are needed, four where four ranks are. Products
// are then made in f32: in TF32, which XLA takes there otherwise, runs on one and two H200 differ by 3e-3.
const togetherEnv = "FEWSTEP_TEST_TOGETHER"

func togetherBackend() string {
	if b := os.Getenv(togetherEnv); b != "" {
		return b
	}
	return "go"
}

// args are those of a run; an epsilon above rounding keeps runs on other numbers of devices comparable weight by weight.
func (s *shared) args(dir string, more ...string) []string {
	return append([]string{"run", s.recipe, "--backend", togetherBackend(), "--dir", dir, "--peer-timeout", "4s", "--join-timeout", "2m", "--set", "train.adam_epsilon=1e-4", "--set", "train.batch=4", "--set", "eval.sheet_samples=2",
		"--until", "8"}, more...)
}

// alone runs what is left in one process.
func (s *shared) alone(t *testing.T, dir string, more ...string) {
	t.Helper()
	if out, errs, code := runCommand(t, s.args(dir, more...)...); code != exitOK {
		t.Fatalf("code %d, %s%s", code, out, errs)
	}
}

// nearly compares two runs' results weight by weight, relative to the largest of its tensor or 1.
func nearly(t *testing.T, want, got string, tolerance float64) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(want, "stages", "*", "*", "result", "*.safetensors"))
	if err != nil || len(found) < 3 {
		t.Fatalf("%d files, %v", len(found), err)
	}
	worst, where := 0.0, ""
	for _, path := range found {
		rel, _ := filepath.Rel(want, path)
		a, err := weights.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := weights.Open(filepath.Join(got, rel))
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if len(a.Names()) == 0 || !slices.Equal(a.Names(), b.Names()) {
			t.Fatalf("%s: %d tensors and %d", rel, len(a.Names()), len(b.Names()))
		}
		for _, name := range a.Names() {
			v, w := weightstest.Floats(t, a, name), weightstest.Floats(t, b, name)
			most, apart := 0.0, 0.0
			for i := range v {
				most, apart = max(most, math.Abs(float64(v[i]))), max(apart, math.Abs(float64(v[i]-w[i])))
			}
			if by := apart / max(most, 1); !(by <= worst) {
				worst, where = by, rel+": "+name
			}
		}
	}
	t.Logf("largest difference %.2g, of %s", worst, where)
	if !(worst <= tolerance) {
		t.Errorf("the runs differ by %.2g, in %s", worst, where)
	}
}

// acrossDevices is how far apart runs on different numbers of devices may be after these 25 updates, in units of the largest
// value of a tensor or 1: rounding grows from update to update. Up to 1e-4 was seen.
const acrossDevices = 5e-4

// Two processes train as one does, up to the order of sums: the same samples, one checkpoint, one set of exports. Rank 0 alone
// tells of it. The processes may be stopped by a signal to any of them, after the same update, and another number goes on.
func TestRunTogether(t *testing.T) {
	s := newShared(t)
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	s.alone(t, one)
	r := startRanks(t, 2, nil, s.args(two)...)
	r.ended(t, exitOK)
	if r.outs[1].Len() > 0 || r.errs[1].Len() > 0 && strings.Contains(r.errs[1].String(), "ERR") || !strings.Contains(r.errs[0].String(), "8 full-uncond 40/40 100%") {
		t.Errorf("%s", r.text())
	}
	nearly(t, one, two, acrossDevices)
	for _, name := range []string{"captions.f32", fmt.Sprintf("latents-decoder%d.f32", images.DecoderVersion)} { // which both ranks have made
		a, errA := os.ReadFile(filepath.Join(one, "encoded", name))
		b, errB := os.ReadFile(filepath.Join(two, "encoded", name))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %d and %d bytes, %v, %v", name, len(a), len(b), errA, errB)
		}
	}
	for _, name := range []string{"exports/8step_lora.safetensors", "exports/8step_unet.safetensors", "sheets/lora-8step.png", "sheets/full-8step.png"} {
		if _, err := os.Stat(filepath.Join(two, filepath.FromSlash(name))); err != nil {
			t.Error(err)
		}
	}
	if at := strings.Index(r.errs[0].String(), "exported"); at < 0 || strings.Contains(r.errs[0].String()[:at], "full-uncond 40/40") {
		t.Errorf("the first export waits for the last phase:\n%s", r.text())
	}
	positions := func(dir string) (out []string) {
		records, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range records {
			out = append(out, fmt.Sprintf("%s %s %s %d %d", rec.Kind, rec.Stage, rec.Phase, rec.Step, rec.Position))
		}
		return out
	}
	if a, b := positions(one), positions(two); !slices.Equal(a, b) {
		t.Errorf("other updates: %v and %v", a, b)
	}
	if out, errs, code := runCommand(t, "check", two); code != exitOK || !strings.Contains(out, "goodput ") {
		t.Errorf("check: %s%s", out, errs)
	}
	timing, err := os.ReadFile(filepath.Join(two, "timing.jsonl"))
	if !bytes.Contains(timing, []byte(`"goodput":`)) || !bytes.Contains(timing, []byte(`"returns":`)) || !strings.Contains(r.errs[0].String(), " goodput ") {
		t.Errorf("no goodput: %s", timing)
	}
	figures := []string{monitor.StepSeconds, monitor.DataSeconds, monitor.TeacherSeconds, monitor.MemoryPeak}
	if togetherBackend() != xla.CUDA { // where the devices wait for each other, not the hosts
		figures = append(figures, monitor.WaitSeconds)
	}
	for _, figure := range figures {
		for rank := range 2 {
			if name := fmt.Sprintf("%q:", fmt.Sprintf("%s_rank_%d", figure, rank)); err != nil || !bytes.Contains(timing, []byte(name)) {
				t.Errorf("no %s: %v\n%s", name, err, timing)
			}
		}
	}
	saved, _ := filepath.Glob(filepath.Join(two, "stages", "8", "full-uncond", "checkpoints", "*", "student.optimizer-00002-of-00002.safetensors"))
	if len(saved) == 0 {
		t.Error("rank 1 has saved nothing")
	}

	t.Run("stopped", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		for i, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGUSR1} {
			before, _ := os.ReadFile(filepath.Join(dir, "stats.jsonl"))
			r := startRanks(t, 2, nil, s.args(dir, "--set", "train.checkpoint_samples=0")...)
			waitForLines(t, r.cmds[0], r.errs[0], filepath.Join(dir, "stats.jsonl"), bytes.Count(before, []byte("\n"))+2)
			if err := r.cmds[1-i].Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			r.ended(t, exitInterrupted)
			for rank := range 2 {
				if !strings.Contains(r.errs[rank].String(), "the same command continues") {
					t.Errorf("rank %d: %s", rank, r.errs[rank])
				}
			}
			if out, errs, code := runCommand(t, "check", dir); code != exitOK {
				t.Errorf("check: %s%s", out, errs)
			}
		}
		copied := filepath.Join(t.TempDir(), "run")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		startRanks(t, 2, nil, s.args(dir)...).ended(t, exitOK)
		nearly(t, two, dir, 0)
		more := 4
		if togetherBackend() == xla.CUDA {
			more = min(more, xla.GPUs())
		}
		startRanks(t, more, nil, s.args(copied)...).ended(t, exitOK)
		nearly(t, one, copied, acrossDevices)
	})

	// Several processes after one, and one after several.
	t.Run("another number", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		cmd, out := fewstep(t, s.args(dir)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitForLines(t, cmd, out, filepath.Join(dir, "stats.jsonl"), 2)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		ended(t, cmd, out, exitInterrupted)
		r := startRanks(t, 2, nil, s.args(dir)...)
		waitForLines(t, r.cmds[0], r.errs[0], filepath.Join(dir, "stats.jsonl"), 9)
		if err := r.cmds[0].Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		r.ended(t, exitInterrupted)
		s.alone(t, dir)
		nearly(t, one, dir, acrossDevices)
	})
}

// Rank 0 draws when the others have ended. Asked to stop then, it ends at once, with what there is.
func TestTogetherStoppedWhileDrawing(t *testing.T) {
	recipe := tinyRecipe(t, "stages:\n  - {name: \"8\", teacher_steps: 16, phases: [{name: lora-cond, samples: 8, lr: 3e-4}]}\n")
	s, dir := &shared{recipe}, filepath.Join(t.TempDir(), "run")
	r := startRanks(t, 2, nil, s.args(dir, "--set", "eval.sheet_samples=400", "--set", "eval.teacher_steps=200")...)
	_ = r.cmds[1].Wait()
	start := time.Now()
	_ = r.cmds[0].Process.Signal(syscall.SIGUSR1)
	defer time.AfterFunc(30*time.Second, func() { _ = r.cmds[0].Process.Kill() }).Stop()
	_ = r.cmds[0].Wait()
	if code := r.cmds[0].ProcessState.ExitCode(); code != exitInterrupted || time.Since(start) > 10*time.Second || r.cmds[1].ProcessState.ExitCode() != exitOK {
		t.Errorf("code %d after %v\n%s", code, time.Since(start), r.text())
	}
	if out, errs, code := runCommand(t, "check", dir); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "exports", "*.safetensors")); len(found) == 0 {
		t.Error("nothing was exported")
	}
}

// The whole ladder, every phase from what the one before made, on two devices and on one: rounding grows from phase to phase, from
// 1e-7 after the first stage to 4e-3 after the last, seen here, where weights have moved by up to 3e-2.
func TestTogetherWholeLadder(t *testing.T) {
	if testing.Short() {
		t.Skip("walks the ladder twice")
	}
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	s := &shared{recipe}
	one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
	whole := []string{"--until", "1", "--set", "train.batch=2", "--set", "eval.sheet_samples=0"}
	s.alone(t, one, whole...)
	startRanks(t, 2, nil, s.args(two, whole...)...).ended(t, exitOK)
	nearly(t, one, two, 1e-2)
	for _, dir := range []string{one, two} { // what the first stage made alone
		for _, later := range []string{"8", "4", "2", "1"} {
			if err := os.RemoveAll(filepath.Join(dir, "stages", later)); err != nil {
				t.Fatal(err)
			}
		}
	}
	nearly(t, one, two, 1e-6)
}

// Encodings that take more than data.encode_ahead are made by every process of its own samples, while they train: the run is that
// of one process, and that of encodings which were made before, up to the order of sums.
func TestTogetherEncodesLive(t *testing.T) {
	s := newShared(t)
	ahead, one, two, halted := filepath.Join(t.TempDir(), "ahead"), filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two"), filepath.Join(t.TempDir(), "halted")
	more := []string{"--set", "data.posterior=sample", "--set", "data.dropout=0.2", "--set", "eval.sheet_samples=0"}
	s.alone(t, ahead, more...)
	more = append(more, "--set", "data.encode_ahead=0")
	s.alone(t, one, more...)
	r := startRanks(t, 2, nil, s.args(two, more...)...)
	r.ended(t, exitOK)
	nearly(t, one, two, acrossDevices)
	nearly(t, ahead, two, acrossDevices)
	if !strings.Contains(r.errs[0].String(), "encoded while the run trains") || strings.Contains(r.errs[1].String(), "encoded while") {
		t.Errorf("%s", r.text())
	}
	if made, _ := filepath.Glob(filepath.Join(two, "encoded", "*")); len(made) > 0 {
		t.Errorf("%v were made before", made)
	}
	r = startRanks(t, 2, nil, s.args(halted, more...)...)
	waitForLines(t, r.cmds[0], r.errs[0], filepath.Join(halted, "stats.jsonl"), 5)
	_ = r.cmds[1].Process.Signal(syscall.SIGTERM)
	r.ended(t, exitInterrupted)
	startRanks(t, 2, nil, s.args(halted, more...)...).ended(t, exitOK)
	nearly(t, two, halted, 0)
}

// A rank that finds its programs on disk and one that compiles them wait for each other, and come to the same.
func TestTogetherProgramCachesDiffer(t *testing.T) {
	if testing.Short() {
		t.Skip("walks a phase twice")
	}
	backend := togetherBackend()
	if backend == "go" {
		backend = xla.CPU // the pure-Go backend compiles nothing
	}
	rt, err := xla.Open(backend, xla.Options{})
	if err != nil {
		xlatest.Missing(t, err)
	}
	rt.Close()
	s := &shared{tinyRecipe(t, "stages:\n  - {name: \"8\", teacher_steps: 16, phases: [{name: lora-cond, samples: 8, lr: 3e-4}]}\n")}
	warm, cold := "0:FEWSTEP_PROGRAM_CACHE="+t.TempDir(), "1:FEWSTEP_PROGRAM_CACHE="+t.TempDir()
	first, second := filepath.Join(t.TempDir(), "run"), filepath.Join(t.TempDir(), "run")
	more := []string{"--backend", backend, "--set", "eval.sheet_samples=0", "--peer-timeout", "1m"}
	startRanks(t, 2, []string{warm, "1:FEWSTEP_PROGRAM_CACHE=" + t.TempDir()}, s.args(first, more...)...).ended(t, exitOK)
	r := startRanks(t, 2, []string{warm, cold}, s.args(second, more...)...)
	r.ended(t, exitOK)
	if told := r.errs[0].String(); !regexp.MustCompile(`compiled[= ]0 .*from the cache[="]* ?[1-9]`).MatchString(told) {
		t.Errorf("rank 0 compiled again:\n%s", told)
	}
	skip := func(path string) bool { return wallClock(path) || strings.HasPrefix(path, "aside/") }
	sameFiles(t, files(t, first, skip), files(t, second, skip))
}

// With state dealt out over two processes each saves what it keeps, and the result is whole; one process goes on with it, and two
// with what one has saved.
func TestTogetherSharded(t *testing.T) {
	s := newShared(t)
	layered := []string{"--set", "train.granularity=layer", "--set", "train.calls=layer", "--set", "train.ema=0.9", "--set", "train.clip_norm=0.5", "--set", "eval.sheet_samples=0"}
	sharded := append([]string{"--set", "train.shard=sharded"}, layered...)
	one, two, mixed := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two"), filepath.Join(t.TempDir(), "mixed")
	s.alone(t, one, layered...)
	startRanks(t, 2, nil, s.args(two, sharded...)...).ended(t, exitOK)
	nearly(t, one, two, acrossDevices)
	r := startRanks(t, 2, nil, s.args(mixed, sharded...)...)
	waitForLines(t, r.cmds[0], r.errs[0], filepath.Join(mixed, "stats.jsonl"), 4)
	_ = r.cmds[1].Process.Signal(syscall.SIGTERM)
	r.ended(t, exitInterrupted)
	cmd, out := fewstep(t, s.args(mixed, layered...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLines(t, cmd, out, filepath.Join(mixed, "stats.jsonl"), 18)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	ended(t, cmd, out, exitInterrupted)
	startRanks(t, 2, nil, s.args(mixed, sharded...)...).ended(t, exitOK)
	nearly(t, one, mixed, acrossDevices)
}

// A rank that is killed at a random moment, or that stands still, ends the others by its name within seconds; started again,
// all of them come to the bytes of a run that nothing disturbed.
func TestRankIsLost(t *testing.T) {
	s := newShared(t)
	straight, broken := filepath.Join(t.TempDir(), "straight"), filepath.Join(t.TempDir(), "broken")
	startRanks(t, 2, nil, s.args(straight)...).ended(t, exitOK)
	random := rand.New(rand.NewPCG(14, 6))
	lost, rounds := 0, []int{0, 1, 4, 8, 13, 18}
	for i, lines := range rounds {
		r := startRanks(t, 2, nil, s.args(broken)...)
		file := "stats.jsonl"
		if lines == 0 { // before the first update, but when all have come: who waits for rank 0 to come waits for --join-timeout
			file, lines = "config.yaml", 1
		}
		waitForLines(t, r.cmds[0], r.errs[0], filepath.Join(broken, file), lines)
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		victim, signal := i%2, syscall.SIGKILL
		if i == 3 {
			signal = syscall.SIGSTOP
		}
		start := time.Now()
		_ = r.cmds[victim].Process.Signal(signal)
		_ = r.cmds[1-victim].Wait()
		code := r.cmds[1-victim].ProcessState.ExitCode()
		_ = r.cmds[victim].Process.Kill()
		_ = r.cmds[victim].Wait()
		if code == exitOK || r.cmds[victim].ProcessState.ExitCode() == exitOK {
			t.Logf("round %d: the ranks were done before %v came to rank %d", i, signal, victim)
			continue
		}
		lost++
		if took := time.Since(start); code != exitLost || took > 20*time.Second || !strings.Contains(r.errs[1-victim].String(), fmt.Sprintf("rank %d (", victim)) {
			t.Errorf("rank %d was sent %v: the other ended with code %d after %v\n%s", victim, signal, code, took, r.text())
		}
	}
	if t.Logf("a rank was lost in %d of %d rounds", lost, len(rounds)); lost < len(rounds)/2 {
		t.Errorf("a rank was lost in %d of %d rounds only: the run is too short for this machine", lost, len(rounds))
	}
	startRanks(t, 2, nil, s.args(broken)...).ended(t, exitOK)
	skip := func(path string) bool { return wallClock(path) || strings.HasPrefix(path, "aside/") }
	sameFiles(t, files(t, straight, skip), files(t, broken, skip))
	if out, errs, code := runCommand(t, "check", broken); code != exitOK {
		t.Errorf("check: %s%s", out, errs)
	}
}
