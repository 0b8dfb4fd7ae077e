package monitor

import (
	"fmt"
	"time"
)

// Goodput is what of a run's time went into updates that the run kept: the rest are updates that were lost and made again,
// starts, compilation, saving, pictures, and the time in which no process was there.
type Goodput struct {
	Wall    time.Duration `json:"wall_ns"`      // from the beginning of the first update to the end of the last one
	Kept    time.Duration `json:"kept_ns"`      // in updates that were kept
	Waited  time.Duration `json:"data_wait_ns"` // of Kept, in which no micro-batch was ready
	Updates int           `json:"updates"`      // kept
	Again   int           `json:"again"`        // lost with a process, and made again
	Returns int           `json:"returns"`      // how often the run went back to an earlier state
}

// Share is Kept of Wall, 0 to 1; 0 where nothing was trained.
func (g Goodput) Share() float64 {
	if g.Wall <= 0 {
		return 0
	}
	return min(g.Kept.Seconds()/g.Wall.Seconds(), 1)
}

func (g Goodput) String() string {
	text := fmt.Sprintf("goodput %.1f %%: %v of %v went into %d updates that were kept", 100*g.Share(), g.Kept.Round(time.Millisecond), g.Wall.Round(time.Millisecond), g.Updates)
	if g.Kept > 0 {
		text += fmt.Sprintf("; they waited for data for %.1f %% of their time", 100*g.Waited.Seconds()/g.Kept.Seconds())
	}
	if g.Again > 0 {
		text += fmt.Sprintf("; %d were made again after %d returns to a checkpoint", g.Again, g.Returns)
	}
	return text
}

// ReadGoodput reads a timing.jsonl, its lines of updates; a missing file has no updates.
func ReadGoodput(path string) (Goodput, error) {
	a, err := ReadAccount(path)
	if err != nil {
		return Goodput{}, err
	}
	return a.Goodput(), nil
}

// Account keeps a run's goodput, from one update to the next.
type Account struct {
	kept           []keptUpdate
	begun, ended   time.Time
	took, waited   time.Duration // in those that are kept
	again, returns int
	now            func() time.Time
}

// keptUpdate is an update that was not made again.
type keptUpdate struct {
	position     int64
	took, waited time.Duration
}

// ReadAccount reads a timing.jsonl as ReadGoodput does, to be gone on with.
func ReadAccount(path string) (*Account, error) {
	a := &Account{now: time.Now}
	return a, eachLine(path, func(row timingRow) {
		if row.Seconds > 0 { // others are models' sampling times
			a.add(row)
		}
	})
}

// Update adds a step's record, as it is written to timing.jsonl.
func (a *Account) Update(r Record) error {
	if r.Took > 0 {
		a.add(timingRow{Position: r.Position, Time: a.now(), Seconds: r.Took.Seconds(), Wall: r.Wall})
	}
	return nil
}

// Close does nothing: an Account is a Reporter.
func (a *Account) Close() error { return nil }

func (a *Account) add(row timingRow) {
	if a.begun.IsZero() {
		a.begun = row.Time.Add(-seconds(row.Seconds))
	}
	a.ended = row.Time
	before := len(a.kept)
	for n := len(a.kept); n > 0 && a.kept[n-1].position >= row.Position; n-- {
		lost := a.kept[n-1]
		a.kept, a.took, a.waited = a.kept[:n-1], a.took-lost.took, a.waited-lost.waited
	}
	if again := before - len(a.kept); again > 0 {
		a.again, a.returns = a.again+again, a.returns+1
	}
	u := keptUpdate{row.Position, seconds(row.Seconds), seconds(row.Wall[DataWait])}
	a.kept, a.took, a.waited = append(a.kept, u), a.took+u.took, a.waited+u.waited
}

// Goodput is that of the updates so far.
func (a *Account) Goodput() Goodput {
	return Goodput{Wall: a.ended.Sub(a.begun), Kept: a.took, Waited: a.waited, Updates: len(a.kept), Again: a.again, Returns: a.returns}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
