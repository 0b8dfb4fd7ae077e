package rundir

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fewstep/cluster"
)

// ranksHere are ranks as goroutines of one process.
type ranksHere struct {
	mu   sync.Mutex
	wake *sync.Cond
	all  map[string][][]byte
	n    int
}

type rankHere struct {
	*ranksHere
	rank int
}

func (r rankHere) Rank() int       { return r.rank }
func (r rankHere) Hosts() []string { return []string{"node0", "node1", "node2"} }

func (r rankHere) Gather(_ context.Context, name string, value []byte) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[name] == nil {
		r.all[name] = make([][]byte, r.n)
	}
	r.all[name][r.rank] = value
	r.wake.Broadcast()
	for slices.ContainsFunc(r.all[name], func(v []byte) bool { return v == nil }) {
		r.wake.Wait()
	}
	return r.all[name], nil
}

// saveTogether saves the checkpoint at a position with three ranks, the files of each given.
func saveTogether(t *testing.T, d *Dir, position int64, of func(rank int) []File) []error {
	t.Helper()
	const n = 3
	here := &ranksHere{all: map[string][][]byte{}, n: n}
	here.wake = sync.NewCond(&here.mu)
	failed := make([]error, n)
	var wg sync.WaitGroup
	for rank := range n {
		wg.Go(func() {
			dir := d
			if rank > 0 {
				var err error
				if dir, err = View(d.root); err != nil {
					t.Error(err)
				}
			}
			failed[rank] = dir.SaveShards(t.Context(), rankHere{here, rank}, at(position), meta{position / 10}, of(rank)...)
		})
	}
	wg.Wait()
	return failed
}

func sharded(position int64) func(rank int) []File {
	return func(rank int) []File {
		return []File{Bytes(fmt.Sprintf("student-%d.safetensors", rank), content(position, rank)), Bytes(fmt.Sprintf("state-%d", rank), content(position, 10+rank))}
	}
}

func TestShards(t *testing.T) {
	d := open(t, t.TempDir())
	for position := int64(10); position <= 40; position += 10 {
		for range 2 { // the second time all is there already
			for rank, err := range saveTogether(t, d, position, sharded(position)) {
				if err != nil {
					t.Fatalf("rank %d: %v", rank, err)
				}
			}
		}
	}
	c, skipped, err := d.LatestCheckpoint()
	if err != nil || len(skipped) > 0 || c.Position != 40 || len(c.Files()) != 6 {
		t.Fatalf("%v, %v, %v", c, skipped, err)
	}
	for rank := range 3 {
		if b, err := os.ReadFile(c.Path(fmt.Sprintf("student-%d.safetensors", rank))); err != nil || string(b) != string(content(40, rank)) {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
	if folders, _ := filepath.Glob(filepath.Join(d.PhasePath("8to4", "lora"), "checkpoints", "*")); len(folders) != 2 {
		t.Errorf("kept %v", folders)
	}
}

// Whatever goes wrong on one rank is every rank's error, and the checkpoint from before is sound.
func TestShardsFail(t *testing.T) {
	old := visibleWithin
	visibleWithin = 200 * time.Millisecond
	defer func() { visibleWithin = old }()
	for name, c := range map[string]struct {
		of   func(rank int) []File
		want string
	}{
		"full disk on rank 2": {func(rank int) []File {
			if rank == 2 {
				return []File{{Name: "x", WritePath: func(path string) error { return &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC} }}}
			}
			return sharded(20)(rank)
		}, "rank 2 (node2): checkpoint 20: write "},
		"full disk on rank 0": {func(rank int) []File {
			if rank == 0 {
				return []File{{Name: "x", WritePath: func(path string) error { return &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC} }}}
			}
			return sharded(20)(rank)
		}, "rank 0 (node0): checkpoint 20: write "},
		"the same name twice": {func(rank int) []File { return []File{Bytes(fmt.Sprint("x", rank/2), nil)} }, `ranks 0 and 1 both wrote "x0"`},
		"bad name":            {func(rank int) []File { return []File{Bytes(fmt.Sprint("../", rank), nil)} }, "bad or repeated file name"},
		"a folder that is not shared": {func(rank int) []File {
			f := sharded(20)(rank)
			if rank == 1 {
				f[1] = File{Name: "elsewhere", WritePath: func(path string) error {
					if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
						return err
					}
					time.AfterFunc(50*time.Millisecond, func() { os.Remove(path) })
					return nil
				}}
			}
			if rank == 2 {
				f[1].WritePath, f[1].Write = func(path string) error { time.Sleep(100 * time.Millisecond); return os.WriteFile(path, nil, 0o666) }, nil
			}
			return f
		}, "what rank 1 (node1) wrote is not what lies here"},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, t.TempDir())
			save(t, d, 10)
			failed := saveTogether(t, d, 20, c.of)
			for rank, err := range failed {
				if err == nil || !strings.Contains(err.Error(), c.want) || err.Error() != failed[0].Error() {
					t.Errorf("rank %d: %v, want %q", rank, err, c.want)
				}
			}
			if position, _ := latest(t, d); position != 10 {
				t.Errorf("the latest checkpoint is %d", position)
			}
			if problems, err := Check(d.root); err != nil || len(problems) > 0 {
				t.Errorf("left behind: %v, %v", problems, err)
			}
		})
	}
}

// Ranks in processes of their own, killed at random while they save, and started again until they are done.

const shardWorker = "RUNDIR_TEST_SHARDS" // the run directory

const (
	shardRanks   = 3
	lastPosition = 200
)

// shardContent is what a rank saves at a position: large enough that saving takes a while.
func shardContent(position int64, rank int) []byte {
	b := make([]byte, 200_000)
	r := rand.New(rand.NewPCG(uint64(position), uint64(rank)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// saveWithOthers is the life of a rank: from the latest checkpoint, whose shards must be whole, to the last.
func saveWithOthers(dir string) error {
	place, err := cluster.Detect(cluster.Given{}, os.Getenv)
	if err != nil {
		return err
	}
	m, err := cluster.Join(context.Background(), place, cluster.Options{Secret: []byte("0123456789abcdef"), PeerTimeout: time.Second, Host: fmt.Sprintf("node%d", place.Rank)})
	if err != nil {
		return err
	}
	defer m.Close()
	var d *Dir
	if place.Rank == 0 {
		if d, err = Open(dir, []byte(config), lineage); err != nil {
			return m.Fail(cluster.CodeError, err)
		}
		defer d.Close()
	}
	if _, err := m.Gather(m.Context(), "open", nil); err != nil {
		return err
	}
	if place.Rank > 0 {
		if d, err = View(dir); err != nil {
			return m.Fail(cluster.CodeError, err)
		}
		if limit, _ := strconv.ParseUint(os.Getenv("LIMIT"), 10, 64); limit > 0 { // a file system with no room for more
			if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
				return m.Fail(cluster.CodeError, err)
			}
		}
	}
	c, _, err := d.LatestCheckpoint()
	if err != nil {
		return m.Fail(cluster.CodeError, err)
	}
	position := int64(0)
	if c != nil {
		position = c.Position
		b, err := os.ReadFile(c.Path(fmt.Sprintf("shard-%d", place.Rank)))
		if err == nil && string(b) != string(shardContent(position, place.Rank)) {
			err = errors.New("the shard is not what was saved")
		}
		if err != nil {
			return m.Fail(cluster.CodeError, err)
		}
	}
	if err := m.Same(m.Context(), cluster.Fact{Name: "checkpoint", Value: fmt.Sprint(position)}); err != nil {
		return err
	}
	for position += 10; position <= lastPosition; position += 10 {
		if err := d.SaveShards(m.Context(), m, at(position), meta{position}, Bytes(fmt.Sprintf("shard-%d", place.Rank), shardContent(position, place.Rank))); err != nil {
			return m.Fail(cluster.CodeError, err)
		}
	}
	return m.Leave(m.Context())
}

// shardWorkers starts the ranks; their output is that of all.
func shardWorkers(t *testing.T, dir string, attempt int, more ...string) (cmds []*exec.Cmd, out []*strings.Builder) {
	t.Helper()
	for rank := range shardRanks {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), shardWorker+"="+dir, fmt.Sprintf("RANK=%d", rank), fmt.Sprintf("WORLD_SIZE=%d", shardRanks),
			"MASTER_ADDR=127.0.0.1", fmt.Sprintf("MASTER_PORT=%d", 21000+os.Getpid()%10000), fmt.Sprintf("TORCHELASTIC_RESTART_COUNT=%d", attempt))
		for _, v := range more {
			if who, v, _ := strings.Cut(v, ":"); who == strconv.Itoa(rank) {
				cmd.Env = append(cmd.Env, v)
			}
		}
		o := &strings.Builder{}
		cmd.Stderr = o
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		cmds, out = append(cmds, cmd), append(out, o)
	}
	return cmds, out
}

// waitForCheckpoint returns when the run has saved this position, or a later one, or has not within a minute.
func waitForCheckpoint(dir string, position int64) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		v, err := View(dir)
		if err != nil {
			continue // the ranks have not met yet
		}
		if c, _, err := v.LatestCheckpoint(); err == nil && c != nil && c.Position >= position {
			return
		}
	}
}

func TestKilledWhileSavingShards(t *testing.T) {
	dir := t.TempDir()
	kills := 0
	for attempt := 0; ; attempt++ {
		cmds, out := shardWorkers(t, dir, attempt)
		if attempt < 6 {
			waitForCheckpoint(dir, int64(attempt+1)*20)
			time.Sleep(rand.N(10 * time.Millisecond)) // at any moment of the next save
			cmds[attempt%shardRanks].Process.Kill()
		}
		done := 0
		for rank, cmd := range cmds {
			switch err := cmd.Wait(); {
			case err == nil:
				done++
			case cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled():
				kills++
			case !strings.Contains(out[rank].String(), fmt.Sprintf("rank %d (node%d): was lost", attempt%shardRanks, attempt%shardRanks)) || attempt >= 6:
				t.Fatalf("attempt %d, rank %d: %v\n%s", attempt, rank, err, out[rank])
			}
		}
		if done == shardRanks {
			break
		}
		v, err := View(dir)
		if errors.As(err, new(*NotRunDir)) {
			continue // it was killed before it was one
		}
		if err != nil {
			t.Fatal(err)
		}
		if c, skipped, err := v.LatestCheckpoint(); err != nil || c != nil && len(c.Files()) != shardRanks || slices.ContainsFunc(skipped, func(s Skipped) bool { return !s.Unfinished }) {
			t.Fatalf("attempt %d: %v, %v, %v", attempt, c, skipped, err)
		}
	}
	if kills == 0 {
		t.Error("nothing was killed")
	}
	v, err := View(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c, _, err := v.LatestCheckpoint(); err != nil || c.Position != lastPosition {
		t.Errorf("%v, %v", c, err)
	}
}

// A rank whose file system takes no more stops all.
func TestRankWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	cmds, out := shardWorkers(t, dir, 0, "2:LIMIT=100000")
	for rank, cmd := range cmds {
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 1 || !strings.Contains(out[rank].String(), "rank 2 (node2): checkpoint 10: cannot write ") || !strings.Contains(out[rank].String(), "ulimit -f") {
			t.Errorf("rank %d ended with %d:\n%s", rank, got, out[rank])
		}
	}
}
