package feed

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Each calls f for 0 … n−1 on all cores.
func Each(n int, f func(i int)) { On(runtime.GOMAXPROCS(0), n, f) }

// On calls f for 0 … n−1, for so many of them at a time: more than there are cores where f waits for a network.
func On(workers, n int, f func(i int)) {
	var wait sync.WaitGroup
	var next atomic.Int64
	for range min(n, workers) {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wait.Wait()
}
