package xla

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Recording is what a profiler saw: an XSpace (TensorFlow's tsl/profiler/protobuf/xplane.proto), the file that
// TensorBoard calls *.xplane.pb.
type Recording struct {
	Raw    []byte // serialised XSpace; nil when it was not the plugin's profiler that recorded
	Planes []Plane
}

// Plane is a device, or the host.
type Plane struct {
	Name  string
	Lines []Line
}

// Line is a queue of a device, or a thread of the host.
type Line struct {
	Name   string
	Events []Event
}

// Event is something that took time.
type Event struct {
	Name            string
	Start, Duration int64 // picoseconds; Start since the beginning of the recording's epoch
}

// ParseRecording reads a serialised XSpace. What it does not know it passes over.
func ParseRecording(raw []byte) (*Recording, error) {
	r := &Recording{Raw: raw}
	err := fields(raw, func(n protowire.Number, _ uint64, b []byte) error {
		if n != 1 {
			return nil
		}
		p, err := parsePlane(b)
		r.Planes = append(r.Planes, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("xla: a recording cannot be read: %w", err)
	}
	return r, nil
}

// fields goes over a message's fields: numbers in v, bytes in b. A zero byte at the end, which the CUDA plugin adds, is
// passed over.
func fields(m []byte, field func(n protowire.Number, v uint64, b []byte) error) error {
	for len(m) > 0 && !(len(m) == 1 && m[0] == 0) {
		n, kind, size := protowire.ConsumeTag(m)
		if size < 0 {
			return protowire.ParseError(size)
		}
		m = m[size:]
		var v uint64
		var b []byte
		switch kind {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(m)
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(m)
		default:
			size = protowire.ConsumeFieldValue(n, kind, m)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		m = m[size:]
		if err := field(n, v, b); err != nil {
			return err
		}
	}
	return nil
}

func parsePlane(m []byte) (p Plane, err error) {
	names := map[uint64]string{}
	var lines [][]byte
	err = fields(m, func(n protowire.Number, _ uint64, b []byte) error {
		switch n {
		case 2:
			p.Name = string(b)
		case 3:
			lines = append(lines, b)
		case 4: // an entry of the map of names
			var id uint64
			return fields(b, func(n protowire.Number, v uint64, b []byte) error {
				if n == 1 {
					id = v
				}
				if n != 2 {
					return nil
				}
				return fields(b, func(n protowire.Number, _ uint64, b []byte) error {
					if n == 2 {
						names[id] = string(b)
					}
					return nil
				})
			})
		}
		return nil
	})
	for _, b := range lines {
		l, failed := parseLine(b, names)
		if err == nil {
			err = failed
		}
		p.Lines = append(p.Lines, l)
	}
	return p, err
}

func parseLine(m []byte, names map[uint64]string) (l Line, err error) {
	var epoch int64 // nanoseconds
	err = fields(m, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 2:
			l.Name = string(b)
		case 3:
			epoch = int64(v)
		case 4:
			var e Event
			if err := fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				switch n {
				case 1:
					e.Name = names[v]
				case 2:
					e.Start = int64(v)
				case 3:
					e.Duration = int64(v)
				}
				return nil
			}); err != nil {
				return err
			}
			l.Events = append(l.Events, e)
		}
		return nil
	})
	for i := range l.Events {
		l.Events[i].Start += epoch * 1000
	}
	return l, err
}

// WriteTrace writes the recording in the Chrome trace format, which Perfetto opens (https://ui.perfetto.dev).
func (r *Recording) WriteTrace(w io.Writer) error {
	type event struct {
		Name  string            `json:"name"`
		Phase string            `json:"ph"`
		Time  float64           `json:"ts"` // microseconds
		Took  float64           `json:"dur,omitempty"`
		Plane int               `json:"pid"`
		Line  int               `json:"tid"`
		Args  map[string]string `json:"args,omitempty"`
	}
	var first int64
	for _, p := range r.Planes {
		for _, l := range p.Lines {
			for _, e := range l.Events {
				if first == 0 || e.Start < first {
					first = e.Start
				}
			}
		}
	}
	events := []event{}
	for i, p := range r.Planes {
		events = append(events, event{Name: "process_name", Phase: "M", Plane: i, Args: map[string]string{"name": p.Name}})
		for k, l := range p.Lines {
			events = append(events, event{Name: "thread_name", Phase: "M", Plane: i, Line: k, Args: map[string]string{"name": l.Name}})
			for _, e := range l.Events {
				events = append(events, event{Name: e.Name, Phase: "X", Time: float64(e.Start-first) / 1e6, Took: float64(e.Duration) / 1e6, Plane: i, Line: k})
			}
		}
	}
	return json.NewEncoder(w).Encode(map[string]any{"displayTimeUnit": "ms", "traceEvents": events})
}

// Total is what all events of one name came to.
type Total struct {
	Name     string
	Count    int
	Duration int64 // picoseconds
}

// Kernels sums up what ran on the queues of GPUs by name, the longest first, and tells which part of the time between the
// first and the last of them no queue was busy.
func (r *Recording) Kernels() (kernels []Total, idle float64) {
	var spans [][2]int64
	kernels = r.totals("Stream", func(e Event) { spans = append(spans, [2]int64{e.Start, e.Start + e.Duration}) })
	if len(spans) == 0 {
		return nil, 0
	}
	slices.SortFunc(spans, func(a, b [2]int64) int { return int(min(1, max(-1, a[0]-b[0]))) })
	begin, end := spans[0][0], spans[0][0]
	var busy int64
	for _, s := range spans {
		if s[1] > end {
			busy += s[1] - max(s[0], end)
			end = s[1]
		}
	}
	return kernels, 1 - float64(busy)/float64(end-begin)
}

// Programs sums up the programs that ran, the longest first.
func (r *Recording) Programs() []Total { return r.totals(programsLine, func(Event) {}) }

// programsLine is how XLA names the line of a GPU's plane that shows whole programs.
const programsLine = "XLA Modules"

// totals sums up the events of devices' lines that begin with a name.
func (r *Recording) totals(line string, each func(Event)) (out []Total) {
	index := map[string]int{}
	for _, p := range r.Planes {
		if !strings.HasPrefix(p.Name, "/device:") {
			continue
		}
		for _, l := range p.Lines {
			if !strings.HasPrefix(l.Name, line) {
				continue
			}
			for _, e := range l.Events {
				i, ok := index[e.Name]
				if !ok {
					i = len(out)
					index[e.Name] = i
					out = append(out, Total{Name: e.Name})
				}
				out[i].Count++
				out[i].Duration += e.Duration
				each(e)
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Duration > out[j].Duration })
	return out
}

// NewRecording makes a recording of programs that were timed from outside, for plugins without a profiler.
func NewRecording(device string, programs []Event) *Recording {
	return &Recording{Planes: []Plane{{Name: "/device:" + device, Lines: []Line{{Name: programsLine, Events: programs}}}}}
}
