package encoded

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"fewstep/data"
	"fewstep/data/scaletest"
)

// Several devices of a process make the same bytes as one; a process waits for the shards of another, while they come.
func TestTogether(t *testing.T) {
	source := folder(t)
	whole := settings(t.TempDir(), source)
	if _, err := encode(t, whole); err != nil {
		t.Fatal(err)
	}
	set, err := data.Open(t.Context(), source, data.Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	dir := t.TempDir()
	each := func(first, n, of int) (out []Settings) {
		for i := range n {
			s := settings(dir, source)
			s.Rank, s.Ranks = first+i, of
			out = append(out, s)
		}
		return out
	}
	r, err := Together(context.Background(), set, each(0, 3, 4))
	if err != nil || !r.Unfinished || r.Missing == 0 || r.Images == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	awaits = time.Millisecond
	if _, err := Await(context.Background(), set, each(0, 1, 4)[0], r, 20*time.Millisecond); err == nil || !strings.Contains(err.Error(), "left to other processes") {
		t.Error(err)
	}
	done := make(chan error)
	go func() {
		time.Sleep(20 * time.Millisecond)
		_, err := Together(context.Background(), set, each(3, 1, 4))
		done <- err
	}()
	if r, err = Await(context.Background(), set, each(0, 1, 4)[0], r, time.Minute); err != nil || r.Unfinished || r.Missing != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(scaletest.Digests(t, dir), scaletest.Digests(t, whole.Dir)) {
		t.Error("three devices and another process make other bytes than one")
	}
}
