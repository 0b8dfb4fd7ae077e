package monitor

import (
	"log/slog"
	"sync"
	"time"
)

// logEvery is the time between two lines of LogProgress.
const logEvery = 5 * time.Second

// LogProgress returns a function that logs the progress of work other than training, and the time left: one line every logEvery,
// none at the end. first is how much was done before the work began. Several goroutines may call the function.
func LogProgress(log *slog.Logger, message, what string, first int) func(done, total int) {
	var lock sync.Mutex
	began, last := time.Now(), time.Now()
	return func(done, total int) {
		lock.Lock()
		defer lock.Unlock()
		if done < total && done > first && time.Since(last) >= logEvery {
			last = time.Now()
			left := time.Since(began) / time.Duration(done-first) * time.Duration(total-done)
			log.Info(message, what, done, "of", total, "eta", left.Round(time.Second))
		}
	}
}
