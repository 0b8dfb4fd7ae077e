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
func ReadGoodput(path string) (g Goodput, err error) {
	var kept []timingRow
	var begun, ended time.Time
	err = eachLine(path, func(row timingRow) {
		if row.Seconds == 0 { // a model's sampling time
			return
		}
		if begun.IsZero() {
			begun = row.Time.Add(-seconds(row.Seconds))
		}
		ended = row.Time
		before := len(kept)
		for len(kept) > 0 && kept[len(kept)-1].Position >= row.Position {
			kept = kept[:len(kept)-1]
		}
		if again := before - len(kept); again > 0 {
			g.Again, g.Returns = g.Again+again, g.Returns+1
		}
		kept = append(kept, row)
	})
	if err != nil {
		return g, err
	}
	g.Wall, g.Updates = ended.Sub(begun), len(kept)
	for _, row := range kept {
		g.Kept += seconds(row.Seconds)
		g.Waited += seconds(row.Wall[DataWait])
	}
	return g, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
