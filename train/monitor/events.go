package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Events writes a TensorBoard event file: TFRecord frames (little-endian
// length, its masked CRC-32C, data, its masked CRC-32C) around tensorflow.Event
// protocol buffers, brain.Event:2. Steps are positions in samples.
//
// A run has one file per start or continuation, numbered so that TensorBoard
// reads them in order. Each file begins with a SessionLog START at the step
// after which it goes on; TensorBoard then drops what earlier files hold from
// that step on, so steps that were redone show once.
type Events struct {
	mu    sync.Mutex
	f     *os.File
	now   func() time.Time
	phase string
}

// OpenEvents starts the next event file in dir for a run that has done position
// samples.
func OpenEvents(dir string, position int64) (*Events, error) {
	return openEvents(dir, position, time.Now)
}

func openEvents(dir string, position int64, now func() time.Time) (*Events, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var n int
	for _, e := range entries {
		var i int
		if _, err := fmt.Sscanf(e.Name(), "events.out.tfevents.%d", &i); err == nil {
			n = max(n, i)
		}
	}
	var f *os.File
	for {
		n++
		f, err = os.OpenFile(filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%010d.fewstep", n)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	e := &Events{f: f, now: now}
	version := e.event(0)
	version.text(3, "brain.Event:2")
	start := e.event(position + 1)
	var session message
	session.integer(1, 1) // START
	start.bytes(7, session)
	if err := e.write(append(frame(version), frame(start)...)); err != nil {
		f.Close()
		return nil, err
	}
	return e, nil
}

// Update writes a record's values as scalars named by their keys, and a text
// "phase" whenever another stage or phase begins.
func (e *Events) Update(r Record) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var summary message
	for _, name := range slices.Sorted(maps.Keys(r.Values)) {
		summary.bytes(1, scalarValue(name, r.Values[name]))
	}
	if r.Took > 0 {
		summary.bytes(1, scalarValue("step_seconds", r.Took.Seconds()))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Wall)) {
		summary.bytes(1, scalarValue("wall/"+name, r.Wall[name]))
	}
	if phase := r.Stage + " " + r.Phase; phase != e.phase {
		e.phase = phase
		summary.bytes(1, textValue("phase", phase))
	}
	if len(summary) == 0 {
		return nil
	}
	return e.summary(r.Position, summary)
}

// Scalar writes one number.
func (e *Events) Scalar(tag string, step int64, v float64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var s message
	s.bytes(1, scalarValue(tag, v))
	return e.summary(step, s)
}

// Image writes one picture, as PNG.
func (e *Events) Image(tag string, step int64, img image.Image) error {
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	var s message
	s.bytes(1, imageValue(tag, img.Bounds().Dx(), img.Bounds().Dy(), buf.Bytes()))
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.summary(step, s)
}

// Text writes a text, which TensorBoard renders as Markdown.
func (e *Events) Text(tag string, step int64, text string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var s message
	s.bytes(1, textValue(tag, text))
	return e.summary(step, s)
}

// Close syncs and closes the file.
func (e *Events) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(e.f.Sync(), e.f.Close())
}

func (e *Events) event(step int64) message {
	var m message
	now := e.now()
	m.double(1, float64(now.Unix())+float64(now.Nanosecond())/1e9)
	m.integer(2, step)
	return m
}

func (e *Events) summary(step int64, s message) error {
	m := e.event(step)
	m.bytes(5, s)
	return e.write(frame(m))
}

func (e *Events) write(b []byte) error {
	if _, err := e.f.Write(b); err != nil {
		return fmt.Errorf("cannot append an event: %w", err)
	}
	return nil
}

func scalarValue(tag string, v float64) message {
	var m message
	m.text(1, tag)
	m.float(2, float32(v))
	return m
}

func imageValue(tag string, width, height int, png []byte) message {
	var pic, m message
	pic.integer(1, int64(height))
	pic.integer(2, int64(width))
	pic.integer(3, 3) // RGB
	pic.bytes(4, png)
	m.text(1, tag)
	m.bytes(4, pic)
	return m
}

func textValue(tag, text string) message {
	var plugin, metadata, dim, shape, tensor, m message
	plugin.text(1, "text")
	metadata.bytes(1, plugin)
	dim.integer(1, 1)
	shape.bytes(2, dim)
	tensor.integer(1, 7) // DT_STRING
	tensor.bytes(2, shape)
	tensor.text(8, strings.ToValidUTF8(text, "\uFFFD"))
	m.text(1, tag+"/text_summary")
	m.bytes(8, tensor)
	m.bytes(9, metadata)
	return m
}

// message is an encoded protocol buffer that grows field by field.
type message []byte

func (m *message) key(field, wire int) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|uint64(wire))
}

// integer leaves out zero, the default, as proto3 does.
func (m *message) integer(field int, v int64) {
	if v == 0 {
		return
	}
	m.key(field, 0)
	*m = binary.AppendUvarint(*m, uint64(v))
}

func (m *message) double(field int, v float64) {
	m.key(field, 1)
	*m = binary.LittleEndian.AppendUint64(*m, math.Float64bits(v))
}

func (m *message) float(field int, v float32) {
	m.key(field, 5)
	*m = binary.LittleEndian.AppendUint32(*m, math.Float32bits(v))
}

func (m *message) bytes(field int, b []byte) {
	m.key(field, 2)
	*m = append(binary.AppendUvarint(*m, uint64(len(b))), b...)
}

func (m *message) text(field int, s string) { m.bytes(field, []byte(s)) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TFRecord's checksum: CRC-32C rotated right by 15 plus a constant.
func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

func frame(data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, maskedCRC(b))
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, maskedCRC(data))
}
