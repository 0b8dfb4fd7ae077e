package xla

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"

	"github.com/gomlx/compute"

	"google.golang.org/protobuf/encoding/protowire"
)

// message builds a protocol buffer message from pairs of field number and value (a number, a text or a message).
func message(pairs ...any) []byte {
	var m []byte
	for i := 0; i < len(pairs); i += 2 {
		n := protowire.Number(pairs[i].(int))
		switch v := pairs[i+1].(type) {
		case int:
			m = protowire.AppendVarint(protowire.AppendTag(m, n, protowire.VarintType), uint64(v))
		case string:
			m = protowire.AppendString(protowire.AppendTag(m, n, protowire.BytesType), v)
		case []byte:
			m = protowire.AppendBytes(protowire.AppendTag(m, n, protowire.BytesType), v)
		}
	}
	return m
}

func handMade() []byte {
	name := func(id int, text string) []byte { return message(1, id, 2, message(1, id, 2, text)) }
	event := func(id, start, took int) []byte { return message(1, id, 2, start, 3, took) }
	gpu := message(1, 0, 2, "/device:GPU:0",
		3, message(1, 7, 2, "Stream #7(Compute)", 3, 1000, 4, event(1, 0, 300), 4, event(2, 400, 200), 4, event(1, 900, 100)),
		3, message(1, 8, 2, "Stream #8(Memcpy)", 3, 1000, 4, event(3, 500, 300)),
		3, message(1, 9, 2, "XLA Modules", 3, 1000, 4, event(2, 0, 1000)),
		4, name(1, "gemm"), 4, name(2, "fusion"), 4, name(3, "copy"))
	return append(message(1, gpu, 1, message(2, "/host:CPU"), 2, "a warning"), 0)
}

func TestRecordingByHand(t *testing.T) {
	r, err := ParseRecording(handMade())
	if err != nil {
		t.Fatal(err)
	}
	kernels, idle := r.Kernels()
	// Busy from 0 to 300, 400 to 800 and 900 to 1000.
	if len(kernels) != 3 || kernels[0] != (Total{"gemm", 2, 400}) || math.Abs(idle-0.2) > 1e-9 {
		t.Errorf("%+v, idle %g", kernels, idle)
	}
	if p := r.Programs(); len(p) != 1 || p[0] != (Total{"fusion", 1, 1000}) {
		t.Errorf("programs %+v", p)
	}
	var b bytes.Buffer
	if err := r.WriteTrace(&b); err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []struct {
			Name, Ph string
			Ts, Dur  float64
			Pid, Tid int
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal(b.Bytes(), &trace); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, e := range trace.TraceEvents {
		found = found || e.Name == "copy" && e.Ph == "X" && e.Tid == 1 && e.Ts == 500e-6 && e.Dur == 300e-6
	}
	if !found || len(trace.TraceEvents) != 2+3+5 {
		t.Errorf("%s", b.String())
	}
}

func FuzzParseRecording(f *testing.F) {
	f.Add(handMade())
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := ParseRecording(raw); err == nil {
			r.Kernels()
		}
	})
}

// The plugin's own profiler sees the programs that run.
func TestProfile(t *testing.T) {
	rt := cpuOrSkip(t, Options{Programs: "off"})
	exec := compiled(t, rt, nil, 2, 64, swap)
	if !rt.HasProfiler() {
		t.Skip("this plugin has no profiler")
	}
	p, err := rt.StartProfile()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Execute([]compute.Buffer{vector(t, rt, make([]float32, 64)...), vector(t, rt, make([]float32, 64)...)}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	read(t, out[0], 64)
	r, err := p.Stop()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, plane := range r.Planes {
		for _, l := range plane.Lines {
			n += len(l.Events)
		}
	}
	if n == 0 {
		t.Errorf("nothing in %d planes", len(r.Planes))
	}
}
