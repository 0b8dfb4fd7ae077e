package train_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/train"
	"fewstep/train/monitor"
)

// rank is one of the processes of a run, within this one.
type rank struct {
	*train.Run
	member *cluster.Member
	stop   context.CancelFunc // asks this process alone to stop
	walked chan error
}

// startRanks begins to walk a run as several processes would; shown are the progress reporters by rank, which may be missing.
func startRanks(t *testing.T, n int, recipe, dir, until string, shown []monitor.Reporter, set ...string) []*rank {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	out, opened, ctx := make([]*rank, n), make(chan error), map[*rank]context.Context{}
	for i := range out {
		r := &rank{walked: make(chan error, 1)}
		ctx[r], r.stop = context.WithCancel(t.Context())
		out[i] = r
		go func() {
			opened <- func() error {
				rt, err := xla.Open(xla.Go, xla.Options{})
				if err != nil {
					return err
				}
				t.Cleanup(rt.Close)
				if r.member, err = cluster.Join(t.Context(), cluster.Place{Rank: i, Nodes: n, Address: address}, cluster.Options{Secret: []byte("of these tests, and long"), JoinTimeout: time.Minute}); err != nil {
					return err
				}
				t.Cleanup(r.member.Close)
				c, err := configs.Load(recipe, set...)
				if err != nil {
					return err
				}
				opt := train.Options{Dir: dir, Until: until, Split: true, Backend: rt.Backend, Cluster: r.member, Log: slog.New(slog.DiscardHandler)}
				if i < len(shown) {
					opt.Progress = shown[i]
				}
				r.Run, err = train.Open(t.Context(), c, opt)
				return err
			}()
		}()
	}
	for range out {
		err = errors.Join(err, <-opened)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range out {
		go func() {
			_, err := r.Walk(ctx[r])
			if err == nil || errors.Is(err, train.ErrInterrupted) {
				err = errors.Join(err, r.member.Leave(r.member.Context()))
			}
			r.walked <- errors.Join(err, r.Close())
		}()
	}
	return out
}

// onePhase are stages of two updates.
const onePhase = "  - {name: \"8\", teacher_steps: 16, phases: [{name: lora-cond, samples: 8, lr: 3e-4}]}\n"

// atRecord calls f with every record of a run before the run goes on.
type atRecord func(monitor.Record)

func (f atRecord) Update(r monitor.Record) error { f(r); return nil }
func (atRecord) Close() error                    { return nil }

// A rank that has trained the last update of a phase has something to lose until rank 0 has written the phase's result: were it to
// end before, all would, and the training would be gone.
func TestUnsavedUntilTheResult(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	last, write := make(chan struct{}), make(chan struct{})
	slow := atRecord(func(r monitor.Record) { // told after the last update, before the result is written
		if r.Kind == monitor.KindStep && r.Samples == r.Total {
			close(last)
			<-write
		}
	})
	ranks := startRanks(t, 2, with(t, tiny(t), onePhase), dir, "8", []monitor.Reporter{slow}, "train.batch=4", "train.checkpoint_samples=0", "eval.sheet_samples=0")
	<-last
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for i, r := range ranks {
			select {
			case err := <-r.walked:
				t.Fatalf("rank %d has ended: %v", i, err)
			default:
			}
		}
	}
	for i, r := range ranks {
		if !r.Unsaved() {
			t.Errorf("rank %d says that all is saved, and there is no result", i)
		}
	}
	close(write)
	for i, r := range ranks {
		if err := <-r.walked; err != nil || r.Unsaved() {
			t.Errorf("rank %d: %v, unsaved %v", i, err, r.Unsaved())
		}
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "stages", "8", "lora-cond", "result", "*.safetensors")); len(found) == 0 {
		t.Error("there is no result")
	}
}

// Where state is dealt out, all ranks save a checkpoint at the phase's end, from which rank 0 makes the result. Ended between the
// two, the run goes on to the result, and trains nothing more.
func TestCheckpointAtThePhasesEnd(t *testing.T) {
	dir, recipe := filepath.Join(t.TempDir(), "run"), with(t, tiny(t), onePhase)
	walk := func() map[string]string {
		updates := 0
		shown := atRecord(func(r monitor.Record) {
			if r.Kind == monitor.KindStep {
				if updates++; updates > 2 {
					panic("a phase of two updates has a third one")
				}
			}
		})
		for i, r := range startRanks(t, 2, recipe, dir, "8", []monitor.Reporter{shown}, "train.batch=4", "train.shard=sharded", "train.granularity=layer", "train.calls=layer") {
			if err := <-r.walked; err != nil {
				t.Fatalf("rank %d: %v", i, err)
			}
		}
		return made(t, dir)
	}
	want := walk()
	if err := os.RemoveAll(filepath.Join(dir, "stages", "8", "lora-cond", "result")); err != nil {
		t.Fatal(err)
	}
	same(t, want, walk())
}

// Asked to stop, one of two ranks has both leave the update under way at the same micro-batch, or complete it where a network was
// updated already; continued, they come to the bytes of a run that was not stopped.
func TestRanksLeaveAnUpdate(t *testing.T) {
	recipe := with(t, tiny(t), "  - {name: \"8\", teacher_steps: 16, phases: [{name: lora-cond, samples: 96, lr: 3e-4}]}\n")
	walk := func(dir string, want error) (updates int) {
		first := make(chan struct{})
		count := atRecord(func(r monitor.Record) {
			if r.Kind == monitor.KindStep {
				if updates++; updates == 1 {
					close(first)
				}
			}
		})
		ranks := startRanks(t, 2, recipe, dir, "8", []monitor.Reporter{count}, "train.batch=4", "train.accumulate=4", "train.checkpoint_samples=0")
		if want != nil {
			<-first
			ranks[1].stop()
		}
		for i, r := range ranks {
			if err := <-r.walked; !errors.Is(err, want) {
				t.Fatalf("rank %d: %v", i, err)
			}
		}
		return updates
	}
	straight, left := filepath.Join(t.TempDir(), "straight"), filepath.Join(t.TempDir(), "left")
	walk(straight, nil)
	n := walk(left, train.ErrInterrupted)
	if n > 3 { // one while the other process is asked
		t.Errorf("asked to stop after an update, %d are made", n)
	}
	if again := walk(left, nil); n+again != 6 {
		t.Errorf("%d updates and %d", n, again)
	}
	same(t, made(t, straight), made(t, left))
}

// A checkpoint that is due by rank 0's clock is one of all ranks.
func TestRanksSaveByTheClock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	for i, r := range startRanks(t, 2, with(t, tiny(t), onePhase), dir, "8", nil, "train.batch=2", "train.checkpoint_samples=0", "train.checkpoint_minutes=1e-6") {
		if err := <-r.walked; err != nil {
			t.Fatalf("rank %d: %v", i, err)
		}
	}
	for _, of := range []string{"1", "2"} {
		if found, _ := filepath.Glob(filepath.Join(dir, "stages", "8", "lora-cond", "checkpoints", "*", "*-0000"+of+"-of-00002.safetensors")); len(found) == 0 {
			t.Errorf("process %s has saved nothing", of)
		}
	}
}
