package bench

import (
	"fmt"
	"io"
	"strings"
	"time"

	"fewstep/internal/atomicfile"
	"fewstep/internal/xla"
)

// Where the device's time goes, by the names of programs and kernels, at most so many lines each.
const profileLines = 30

// profile records one more step, writes it to a file for Perfetto, or for TensorBoard where the name ends in .pb, and
// sums it up.
func (t *team) profile(rt *xla.Runtime, path string, summary io.Writer) (idle float64, err error) {
	var programs []xla.Event
	own := !rt.HasProfiler()
	lead := t.group.Engines()[0]
	lead.Watch = func(program string, start time.Time, took time.Duration) {
		programs = append(programs, xla.Event{Name: program, Start: start.UnixNano() * 1000, Duration: took.Nanoseconds() * 1000})
	}
	defer func() { lead.Watch = nil }()
	var running *xla.Profile
	if !own {
		if running, err = rt.StartProfile(); err != nil {
			return 0, err
		}
	}
	if _, err = t.step(); err != nil {
		return 0, err
	}
	rec := xla.NewRecording(rt.Kind, programs)
	if !own {
		if rec, err = running.Stop(); err != nil {
			return 0, err
		}
	}
	if strings.HasSuffix(path, ".pb") {
		if rec.Raw == nil {
			return 0, fmt.Errorf("%s: only a plugin with a profiler of its own writes TensorBoard's format; choose a name that ends in .json", path)
		}
		err = atomicfile.WriteBytes(path, rec.Raw)
	} else {
		err = atomicfile.Write(path, rec.WriteTrace)
	}
	if err != nil {
		return 0, err
	}
	return summarise(rec, programs, summary), nil
}

// summarise writes where a recorded step's time went, by programs and by kernels, and tells the share of it in which the
// device did nothing. queued are the programs as the engine saw them go: they stand in where the recording names none.
func summarise(rec *xla.Recording, queued []xla.Event, summary io.Writer) (idle float64) {
	kernels, idle := rec.Kernels()
	title, totals := "programs", rec.Programs()
	if len(totals) == 0 { // the CUDA plugin records kernels and what the host did, not which program a kernel belongs to
		title, totals = "programs, by the time that the host took to queue them", xla.NewRecording("host", queued).Programs()
	}
	for _, part := range []struct {
		title  string
		totals []xla.Total
	}{{title, totals}, {"kernels", kernels}} {
		var all int64
		for _, t := range part.totals {
			all += t.Duration
		}
		fmt.Fprintf(summary, "%s: %d kinds, %.2f ms\n", part.title, len(part.totals), float64(all)/1e9)
		for i, t := range part.totals {
			if i == profileLines {
				break
			}
			fmt.Fprintf(summary, "%9.3f ms %5.1f %% %5d × %s\n", float64(t.Duration)/1e9, 100*float64(t.Duration)/float64(all), t.Count, t.Name)
		}
	}
	return idle
}
