package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Ranks in processes of their own, which are killed and stopped. The work of each is a loop of updates with a sum over all ranks
// in each, as of gradients on CPUs, that hangs for ever where a rank is gone.

const worker = "FEWSTEP_CLUSTER_TEST_WORKER" // the folder that a rank writes its updates to

func TestMain(m *testing.M) {
	if dir := os.Getenv(worker); dir != "" {
		os.Exit(work(dir))
	}
	os.Exit(m.Run())
}

const (
	codeStopped   = 3
	codeNonFinite = 5
)

// work is a process's life: its exit code is the cluster's.
func work(dir string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "error:", err)
		var f *Failure
		if errors.As(err, &f) {
			return f.Code
		}
		return CodeError
	}
	place, err := Detect(Given{}, os.Getenv)
	if err != nil {
		return fail(err)
	}
	secret, _, err := Secret("", place, os.Getenv)
	if err != nil {
		return fail(err)
	}
	opt := quick(place.Rank, nil)
	opt.Secret, opt.PeerTimeout, opt.grace = secret, 2*time.Second, 500*time.Millisecond
	opt.listenAgain, opt.StallTime = 10*time.Second, 3*time.Second
	opt.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	m, err := Join(context.Background(), place, opt)
	if err != nil {
		return fail(err)
	}
	defer m.Close()
	if err := m.Same(context.Background(), Fact{"recipe", os.Getenv("RECIPE")}); err != nil {
		return fail(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGUSR1)
	go func() {
		s := <-signals
		m.Propose(context.Background(), Stop, s.String())
	}()
	out, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(place.Rank)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return fail(err)
	}
	ended := make(chan int, 1)
	go func() { // what trains may hang in a call that nothing ends
		ended <- updates(m, out)
	}()
	select {
	case code := <-ended:
		return code
	case <-m.Context().Done():
		return fail(context.Cause(m.Context()))
	}
}

func updates(m *Member, out *os.File) int {
	bad, _ := strconv.Atoi(os.Getenv("NONFINITE_AT"))
	hang, _ := strconv.Atoi(os.Getenv("HANG_AT"))
	for n := 1; ; n++ {
		action, err := m.Next(context.Background())
		if err == nil && action == Stop {
			fmt.Fprintln(out, "stopped after", n-1)
			if err = m.Leave(context.Background()); err == nil {
				return codeStopped
			}
		}
		if n == hang+1 && hang > 0 {
			m.Tell(Progress{Doing: "reading a file that never comes"})
			select {}
		}
		if err == nil && n == bad {
			err = m.Fail(codeNonFinite, fmt.Errorf("update %d: loss is NaN", n))
		}
		if err == nil {
			err = m.Sum(context.Background(), make([]float32, 8))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			var f *Failure
			errors.As(err, &f)
			return f.Code
		}
		fmt.Fprintln(out, n)
	}
}

// processes are ranks that run.
type processes struct {
	t    *testing.T
	dir  string
	cmds []*exec.Cmd
	logs []*lines
	done []chan struct{} // closed when the process has ended
}

// start starts n ranks; more are variables of single ranks, as "2:NAME=value".
func start(t *testing.T, n int, more ...string) *processes {
	t.Helper()
	p := &processes{t: t, dir: t.TempDir()}
	host, port, _ := strings.Cut(freeAddress(t), ":")
	for rank := range n {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), worker+"="+p.dir, SecretEnv+"="+string(secret), fmt.Sprintf("RANK=%d", rank), fmt.Sprintf("WORLD_SIZE=%d", n),
			"MASTER_ADDR="+host, "MASTER_PORT="+port)
		for _, v := range more {
			if who, v, _ := strings.Cut(v, ":"); who == strconv.Itoa(rank) {
				cmd.Env = append(cmd.Env, v)
			}
		}
		log := &lines{}
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			cmd.Wait()
			close(done)
		}()
		t.Cleanup(func() {
			cmd.Process.Kill()
			<-done
		})
		p.cmds, p.logs, p.done = append(p.cmds, cmd), append(p.logs, log), append(p.done, done)
	}
	return p
}

// lines of what a rank wrote.
func (p *processes) lines(rank int) []string {
	b, _ := os.ReadFile(filepath.Join(p.dir, strconv.Itoa(rank)))
	return strings.Fields(strings.ReplaceAll(string(b), "stopped after ", "stopped-after-"))
}

// await waits until every rank has made some updates.
func (p *processes) await(updates int) {
	p.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		ready := true
		for rank := range p.cmds {
			ready = ready && len(p.lines(rank)) >= updates
		}
		if ready {
			return
		}
		if time.Since(start) > 20*time.Second {
			p.t.Fatalf("ranks do not get to update %d:\n%s", updates, p.logs[0])
		}
	}
}

func (p *processes) signal(rank int, s syscall.Signal) {
	p.t.Helper()
	if err := p.cmds[rank].Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// end checks that the ranks end within a time, with a code and a last word.
func (p *processes) end(limit time.Duration, code int, says string, ranks ...int) {
	p.t.Helper()
	timer := time.After(limit)
	for _, rank := range ranks {
		select {
		case <-p.done[rank]:
		case <-timer:
			p.t.Fatalf("rank %d has not ended within %v:\n%s", rank, limit, p.logs[rank])
		}
		if got := p.cmds[rank].ProcessState.ExitCode(); got != code || !strings.Contains(p.logs[rank].String(), says) {
			p.t.Errorf("rank %d ended with %d, want %d and %q:\n%s", rank, got, code, says, p.logs[rank])
		}
	}
}

func others(n, but int) (out []int) {
	for rank := range n {
		if rank != but {
			out = append(out, rank)
		}
	}
	return out
}

// kill -9 of any rank at any moment: the others name it and end.
func TestKilledRank(t *testing.T) {
	t.Parallel()
	const ranks = 3
	for round := range 6 {
		dead := round % ranks
		t.Run(fmt.Sprintf("rank %d", dead), func(t *testing.T) {
			t.Parallel()
			p := start(t, ranks)
			p.await(1)
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
			p.signal(dead, syscall.SIGKILL)
			p.end(6*time.Second, CodeLost, fmt.Sprintf("rank %d (node%d): was lost", dead, dead), others(ranks, dead)...)
		})
	}
}

// A rank that stands still is named like a dead one, and ends itself when it goes on.
func TestStalledRank(t *testing.T) {
	t.Parallel()
	const ranks = 3
	for stalled := range ranks {
		t.Run(fmt.Sprintf("rank %d", stalled), func(t *testing.T) {
			t.Parallel()
			p := start(t, ranks)
			p.await(5)
			p.signal(stalled, syscall.SIGSTOP)
			p.end(8*time.Second, CodeLost, fmt.Sprintf("rank %d (node%d): was lost", stalled, stalled), others(ranks, stalled)...)
			p.signal(stalled, syscall.SIGCONT)
			p.end(8*time.Second, CodeLost, "error:", stalled)
		})
	}
}

// A pause that is shorter than the limit hurts nobody, rank 0's neither.
func TestShortPause(t *testing.T) {
	t.Parallel()
	p := start(t, 3)
	for rank := range 3 {
		p.await(5)
		p.signal(rank, syscall.SIGSTOP)
		time.Sleep(700 * time.Millisecond)
		p.signal(rank, syscall.SIGCONT)
		p.await(len(p.lines(rank)) + 5)
	}
	p.signal(1, syscall.SIGTERM)
	p.end(10*time.Second, codeStopped, "", 0, 1, 2)
}

// A signal to any rank stops all after the same update, with one code.
func TestSignals(t *testing.T) {
	t.Parallel()
	const ranks = 3
	for round, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGTERM} {
		t.Run(fmt.Sprintf("%v to rank %d", s, round), func(t *testing.T) {
			t.Parallel()
			p := start(t, ranks)
			p.await(1 + rand.IntN(50))
			p.signal(round, s)
			p.end(10*time.Second, codeStopped, "", 0, 1, 2)
			for rank := range ranks {
				if got, want := p.lines(rank), p.lines(0); !slices.Equal(got, want) || !strings.HasPrefix(got[len(got)-1], "stopped-after-") {
					t.Errorf("rank %d ended with %v, rank 0 with %v", rank, got[len(got)-1], want[len(want)-1])
				}
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		t.Parallel()
		p := start(t, ranks)
		p.await(10)
		for rank := range ranks {
			p.signal(rank, syscall.SIGTERM)
		}
		p.end(10*time.Second, codeStopped, "", 0, 1, 2)
	})
}

func TestNonFiniteRank(t *testing.T) {
	t.Parallel()
	p := start(t, 3, "2:NONFINITE_AT=7")
	p.end(10*time.Second, codeNonFinite, "rank 2 (node2): update 7: loss is NaN", 0, 1, 2)
	for rank := range 3 {
		if n := len(p.lines(rank)); n > 6 || n < 5 { // a rank may hear of it before the others' values of update 6
			t.Errorf("rank %d made %d updates", rank, n)
		}
	}
}

// A rank whose training stands still while its heartbeat goes on.
func TestHangingRank(t *testing.T) {
	t.Parallel()
	p := start(t, 3, "1:HANG_AT=5")
	p.await(5)
	p.end(10*time.Second, CodeLost, `rank 1 (node1): stands still: it does not come to "sum 6", where others wait for 3s; it is at reading a file that never comes`, 0, 1, 2)
}

func TestOtherRecipe(t *testing.T) {
	t.Parallel()
	p := start(t, 3, "0:RECIPE=3f2a", "1:RECIPE=3f2a", "2:RECIPE=88bc")
	p.end(10*time.Second, CodeDiffers, "recipe differs: ranks 0 (node0), 1 (node1) have 3f2a, rank 2 (node2) has 88bc", 0, 1, 2)
}

// All are started again while nothing of the attempt before is cleaned up: the new ones meet each other only.
func TestStartedAgain(t *testing.T) {
	t.Parallel()
	p := start(t, 2)
	p.await(3)
	p.signal(1, syscall.SIGKILL)
	address := ""
	for _, v := range p.cmds[0].Env {
		if a, ok := strings.CutPrefix(v, "MASTER_PORT="); ok {
			address = a
		}
	}
	again := start(t, 2, "0:MASTER_PORT="+address, "1:MASTER_PORT="+address, "0:TORCHELASTIC_RESTART_COUNT=1", "1:TORCHELASTIC_RESTART_COUNT=1")
	p.end(8*time.Second, CodeLost, "rank 1 (node1): was lost", 0)
	again.await(3)
	again.signal(0, syscall.SIGTERM)
	again.end(10*time.Second, codeStopped, "", 0, 1)
}
