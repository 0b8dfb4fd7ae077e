package train

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fewstep/cluster"
	"fewstep/train/rundir"
)

// ranksOf runs f as every rank of a run over several processes, which are goroutines here.
func ranksOf(t *testing.T, dir string, n int, f func(s *Setup) error) []error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	lead, err := rundir.Open(dir, []byte("a: 1\n"), rundir.Lineage{})
	if err != nil {
		t.Fatal(err)
	}
	defer lead.Close()
	failed := make([]error, n)
	var wait sync.WaitGroup
	for rank := range n {
		wait.Go(func() {
			failed[rank] = func() error {
				m, err := cluster.Join(t.Context(), cluster.Place{Rank: rank, Nodes: n, Address: address},
					cluster.Options{Secret: []byte("of these tests, and long"), JoinTimeout: 20 * time.Second, Host: fmt.Sprintf("node%d", rank)})
				if err != nil {
					return err
				}
				defer m.Close()
				s := &Setup{Dir: lead, ranks: &ranks{member: m, each: 1}}
				if rank > 0 {
					if s.Dir, err = rundir.View(dir); err != nil {
						return err
					}
					defer s.Dir.Close()
				}
				if err := f(s); err != nil {
					return m.Fail(1, err)
				}
				return m.Leave(m.Context())
			}()
		})
	}
	wait.Wait()
	return failed
}

// Three ranks make a file of records that one makes, chunk by chunk in turns; every one then reads it. Where one fails all end,
// with the file begun, and go on with it.
func TestEncodedByAll(t *testing.T) {
	const n, size, processes = 7*chunk + 5, 3, 3
	record := func(i int) []float32 { return []float32{float32(i), -float32(i) / 3, 1 / float32(i)} }
	whole := filepath.Join(t.TempDir(), "whole")
	fill := func(first, end int) (out [][]float32, err error) {
		for i := first; i < end; i++ {
			out = append(out, record(i))
		}
		return out, nil
	}
	if err := encode(t.Context(), whole, n, size, fill); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "run")
	for attempt, breaks := range []int{4 * chunk, -1, -1} { // a chunk that cannot be made; the third time nothing is
		var mu sync.Mutex
		made := map[int][]int{} // first records of chunks, by rank
		failed := ranksOf(t, dir, processes, func(s *Setup) error {
			x, err := s.encodedByAll(t.Context(), "x.f32", n, size, func(first, end int) ([][]float32, error) {
				mu.Lock()
				made[s.process()] = append(made[s.process()], first)
				mu.Unlock()
				if first == breaks {
					return nil, errors.New("no such image")
				}
				return fill(first, end)
			})
			if err != nil {
				return err
			}
			defer x.close()
			for _, i := range []int{0, chunk, 2*chunk + 1, n - 1} {
				got := make([]float32, size)
				if err := x.read(i, got); err != nil || !slices.Equal(got, record(i)) {
					return fmt.Errorf("record %d is %v, %v", i, got, err)
				}
			}
			return nil
		})
		all := slices.Sorted(slices.Values(slices.Concat(made[0], made[1], made[2])))
		if breaks >= 0 {
			for rank, err := range failed {
				if err == nil || !strings.Contains(err.Error(), "rank 1 (node1)") || !strings.Contains(err.Error(), "no such image") {
					t.Errorf("rank %d: %v", rank, err)
				}
			}
			continue
		}
		if err := errors.Join(failed...); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, rundir.Encoded, "x.f32"))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d bytes that differ, %v", len(got), err)
		}
		if attempt == 2 {
			if len(all) > 0 {
				t.Errorf("made again: %v", made)
			}
			continue
		}
		// The first round, records 0 to 3·chunk−1, was written before one of the second failed.
		if !slices.Equal(all, []int{3 * chunk, 4 * chunk, 5 * chunk, 6 * chunk, 7 * chunk}) || len(made[0]) != 2 || len(made[1]) != 2 || len(made[2]) != 1 {
			t.Errorf("chunks were made by rank: %v", made)
		}
	}
	if problems, err := rundir.Check(dir); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
