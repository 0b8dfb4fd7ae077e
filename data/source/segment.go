package source

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// A segment is the index of a shard's rows, as bytes that can be mapped from a file:
//
//	magic (8 bytes) · length of the header (uint64) · header (JSON) · offsets of the rows in the heap (rows+1 × uint64) · heap
//
// A row of the heap is a sequence of length-prefixed strings (see fieldCount) and numbers. Integers are little-endian.
type segment struct {
	head    segmentHead
	offsets []byte
	heap    []byte
	close   func() error
}

const segmentMagic = "FSROWS04"

// segmentHead is what is known of all rows.
type segmentHead struct {
	Rows     int            `json:"rows"`
	Heap     string         `json:"heap"`               // SHA-256 of the heap, in hexadecimal
	Bytes    int64          `json:"bytes"`              // of the images, as far as they are known
	Splits   map[string]int `json:"splits,omitempty"`   // rows of each split that is named
	Weighted bool           `json:"weighted,omitempty"` // some weight is not 1
	Listed   bool           `json:"listed,omitempty"`   // some row has several captions
	Flaws    []Flaw         `json:"flaws,omitempty"`
	Skipped  []Skipped      `json:"skipped,omitempty"`
}

// place says where a row's image lies.
type place struct {
	Name   string // of the object that holds it, relative to the shard's folder; "" = the shard itself
	Offset int64  // of its first byte in there; of parquet files the row of the row group
	Size   int64  // 0 = the whole object; of parquet files −1 − the row group
}

// entry is a row on its way into a segment.
type entry struct {
	Row
	place
	columns map[string]any
}

// builder collects a segment's rows.
type builder struct {
	head    segmentHead
	skipped tally
	offsets []uint64
	heap    []byte
}

func newBuilder() *builder {
	return &builder{skipped: tally{}, head: segmentHead{Splits: map[string]int{}}}
}

// add takes a row, or notes what is wrong with its texts.
func (b *builder) add(e entry, uncaptioned bool) {
	var captions []string
	for _, c := range append([]string{e.Caption}, e.Also...) {
		if c = strings.TrimSpace(c); c != "" {
			captions = append(captions, c)
		}
	}
	if w := float64(e.Weight); !(w >= 0) || math.IsInf(w, 0) {
		b.flaw(e.Key, fmt.Sprintf("weight %g; want a finite number of at least 0", w))
		return
	}
	if len(captions) == 0 && !uncaptioned {
		b.flaw(e.Key, "empty caption; give it one or remove the row")
		return
	}
	for _, c := range captions {
		if strings.ContainsRune(c, 0) {
			b.flaw(e.Key, "its caption has a NUL character")
			return
		}
	}
	switch e.Split = strings.ToLower(e.Split); e.Split {
	case "validation", "valid", "val", "dev", "test":
		e.Split = "eval"
	case "training":
		e.Split = "train"
	}
	e.Caption, e.Also = "", nil
	if len(captions) > 0 {
		e.Caption, e.Also = captions[0], captions[1:]
	}
	b.offsets = append(b.offsets, uint64(len(b.heap)))
	h := b.heap
	text := func(s string) { h = append(binary.AppendUvarint(h, uint64(len(s))), s...) }
	for _, s := range []string{e.Key, e.Caption, e.Kind, e.Coarse, e.Concept, e.Style, e.Split, e.Name} {
		text(s)
	}
	h = binary.AppendVarint(h, e.Offset)
	h = binary.AppendVarint(h, e.Size)
	h = binary.LittleEndian.AppendUint32(h, math.Float32bits(e.Weight))
	h = binary.AppendUvarint(h, uint64(len(e.Also)))
	for _, s := range e.Also {
		text(s)
	}
	if len(e.columns) > 0 {
		if raw, err := json.Marshal(e.columns); err == nil {
			text(string(raw))
		} else {
			text("")
		}
	} else {
		text("")
	}
	b.heap = h
	b.head.Rows++
	if e.Size > 0 {
		b.head.Bytes += e.Size
	}
	if e.Split != "" {
		b.head.Splits[e.Split]++
	}
	b.head.Weighted = b.head.Weighted || e.Weight != 1
	b.head.Listed = b.head.Listed || len(e.Also) > 0
}

func (b *builder) flaw(key, why string) { b.head.Flaws = append(b.head.Flaws, Flaw{key, why}) }

// bytes is the finished segment.
func (b *builder) bytes() ([]byte, error) {
	b.head.Skipped = b.skipped.list()
	b.head.Heap = fmt.Sprintf("%x", sha256.Sum256(b.heap))
	head, err := json.Marshal(b.head)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, 16+len(head)+8*len(b.offsets)+8+len(b.heap))
	out = append(out, segmentMagic...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(head)))
	out = append(out, head...)
	for _, at := range append(slices.Clip(b.offsets), uint64(len(b.heap))) {
		out = binary.LittleEndian.AppendUint64(out, at)
	}
	return append(out, b.heap...), nil
}

// parseSegment reads a segment. It keeps b.
func parseSegment(b []byte) (*segment, error) {
	wrong := errors.New("not an index of rows, or a damaged one")
	if len(b) < 16 || string(b[:8]) != segmentMagic {
		return nil, wrong
	}
	n := binary.LittleEndian.Uint64(b[8:])
	if n > uint64(len(b)-16) {
		return nil, wrong
	}
	s := &segment{close: func() error { return nil }}
	if err := json.Unmarshal(b[16:16+n], &s.head); err != nil || s.head.Rows < 0 {
		return nil, wrong
	}
	b = b[16+n:]
	if s.head.Rows > len(b)/8-1 {
		return nil, wrong
	}
	s.offsets, s.heap = b[:8*(s.head.Rows+1)], b[8*(s.head.Rows+1):]
	if binary.LittleEndian.Uint64(s.offsets[8*s.head.Rows:]) != uint64(len(s.heap)) {
		return nil, wrong
	}
	return s, nil
}

// reader takes a row of the heap apart.
type reader struct{ b []byte }

func (r *reader) text() string {
	n, k := binary.Uvarint(r.b)
	if k <= 0 || n > uint64(len(r.b)-k) {
		r.b = nil
		return ""
	}
	s := string(r.b[k : k+int(n)])
	r.b = r.b[k+int(n):]
	return s
}

func (r *reader) number() int64 {
	v, k := binary.Varint(r.b)
	r.b = r.b[max(k, 0):]
	return v
}

// entry reads row i without its columns, and what is left of it.
func (s *segment) entry(i int) (e entry, columns string) {
	from, to := binary.LittleEndian.Uint64(s.offsets[8*i:]), binary.LittleEndian.Uint64(s.offsets[8*i+8:])
	if from > to || to > uint64(len(s.heap)) {
		return entry{}, ""
	}
	r := reader{s.heap[from:to]}
	for _, to := range []*string{&e.Key, &e.Caption, &e.Kind, &e.Coarse, &e.Concept, &e.Style, &e.Split, &e.Name} {
		*to = r.text()
	}
	e.Offset, e.Size = r.number(), r.number()
	if len(r.b) < 4 {
		return entry{}, ""
	}
	e.Weight = math.Float32frombits(binary.LittleEndian.Uint32(r.b))
	r.b = r.b[4:]
	n, k := binary.Uvarint(r.b)
	r.b = r.b[max(k, 0):]
	for range min(n, uint64(len(r.b))) {
		e.Also = append(e.Also, r.text())
	}
	return e, r.text()
}
