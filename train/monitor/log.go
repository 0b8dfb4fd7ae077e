package monitor

import (
	"log/slog"
	"sync"
	"time"
)

// logEvery is the time between two lines of LogProgress.
const logEvery = 5 * time.Second

// LogProgress logs how far a work beside training is that had come to first when it began, with the time that is left: a line
// every logEvery, none at the end. What it returns may be called by several goroutines.
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
