package weights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"unicode/utf8"
)

// maxHeaderBytes is the reference implementation's limit.
const maxHeaderBytes = 100_000_000

const metadataKey = "__metadata__"

// entry is one tensor of the header; its data is data[begin:end].
type entry struct {
	name       string
	dtype      DType
	shape      []int
	begin, end uint64
}

// parseHeader reads the JSON header of a file with dataBytes bytes of data and
// checks every entry and that together they fill the data without holes or
// overlap. Entries come back in file order.
func parseHeader(header []byte, dataBytes uint64) ([]entry, map[string]string, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, errors.New("the header does not begin with {: not a safetensors file")
	}
	if !utf8.Valid(header) {
		return nil, nil, errors.New("the header is not valid UTF-8")
	}
	if !json.Valid(header) {
		return nil, nil, errors.New("the header is not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(header))
	dec.UseNumber()
	var entries []entry
	var metadata map[string]string
	seen := map[string]bool{}
	err := eachField(dec, func(key string) error {
		if seen[key] {
			return fmt.Errorf("tensor %s: the header names it twice", key)
		}
		seen[key] = true
		if key == metadataKey {
			var err error
			metadata, err = parseMetadata(dec)
			return err
		}
		e, err := parseEntry(dec, key, dataBytes)
		if err != nil {
			return fmt.Errorf("tensor %s: %w", key, err)
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	sort.Slice(entries, func(i, j int) bool {
		a, b := entries[i], entries[j]
		if a.begin != b.begin {
			return a.begin < b.begin
		}
		if a.end != b.end {
			return a.end < b.end
		}
		return a.name < b.name
	})
	return entries, metadata, checkCover(entries, dataBytes)
}

// checkCover wants each tensor to begin where the one before ends.
func checkCover(entries []entry, dataBytes uint64) error {
	var at uint64
	for i, e := range entries {
		switch {
		case e.begin < at:
			return fmt.Errorf("tensor %s: its data overlaps that of tensor %s", e.name, entries[i-1].name)
		case e.begin > at:
			return fmt.Errorf("tensor %s: %d bytes before its data belong to no tensor", e.name, e.begin-at)
		}
		at = e.end
	}
	if at != dataBytes {
		return fmt.Errorf("%d bytes at the end belong to no tensor", dataBytes-at)
	}
	return nil
}

func parseMetadata(dec *json.Decoder) (map[string]string, error) {
	metadata := map[string]string{}
	err := eachField(dec, func(key string) error {
		if _, twice := metadata[key]; twice {
			return fmt.Errorf("key %q occurs twice", key)
		}
		token, err := dec.Token()
		if err != nil {
			return err
		}
		value, ok := token.(string)
		if !ok {
			return fmt.Errorf("the value of key %q is not a string", key)
		}
		metadata[key] = value
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", metadataKey, err)
	}
	return metadata, nil
}

func parseEntry(dec *json.Decoder, name string, dataBytes uint64) (entry, error) {
	e := entry{name: name}
	var dims, offsets []uint64
	seen := map[string]bool{}
	err := eachField(dec, func(key string) (err error) {
		if seen[key] {
			return fmt.Errorf("%s occurs twice", key)
		}
		seen[key] = true
		switch key {
		case "dtype":
			var token json.Token
			if token, err = dec.Token(); err != nil {
				return err
			}
			text, ok := token.(string)
			if !ok {
				return errors.New("dtype is not a string")
			}
			e.dtype = DType(text)
		case "shape":
			dims, err = parseInts(dec, key)
		case "data_offsets":
			offsets, err = parseInts(dec, key)
		default: // ignored, as by the reference implementation
			err = dec.Decode(new(json.RawMessage))
		}
		return err
	})
	if err != nil {
		return entry{}, err
	}
	for _, key := range []string{"dtype", "shape", "data_offsets"} {
		if !seen[key] {
			return entry{}, fmt.Errorf("%s is missing", key)
		}
	}
	e.shape = make([]int, len(dims))
	for i, d := range dims {
		if d > uint64(maxInt) {
			return entry{}, fmt.Errorf("shape %v is too large", dims)
		}
		e.shape[i] = int(d)
	}
	size, err := byteSize(e.dtype, e.shape)
	if err != nil {
		return entry{}, err
	}
	if len(offsets) != 2 {
		return entry{}, fmt.Errorf("%d data_offsets, want 2", len(offsets))
	}
	e.begin, e.end = offsets[0], offsets[1]
	if e.begin > e.end {
		return entry{}, fmt.Errorf("data_offsets %v run backwards", offsets)
	}
	if e.end > dataBytes {
		return entry{}, fmt.Errorf("data_offsets %v lie outside the file's %d bytes of data: the file is truncated or damaged", offsets, dataBytes)
	}
	if e.end-e.begin != size {
		return entry{}, fmt.Errorf("data_offsets %v span %d bytes, but %s%v needs %d", offsets, e.end-e.begin, e.dtype, e.shape, size)
	}
	return e, nil
}

const maxInt = int(^uint(0) >> 1)

// eachField reads a JSON object; field is called after each key and must read
// its value.
func eachField(dec *json.Decoder, field func(key string) error) error {
	if err := expect(dec, json.Delim('{'), "an object"); err != nil {
		return err
	}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return errors.New("a key is not a string")
		}
		if err := field(key); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// parseInts reads a JSON array of non-negative integers.
func parseInts(dec *json.Decoder, key string) ([]uint64, error) {
	if err := expect(dec, json.Delim('['), "an array"); err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	ints := []uint64{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		number, ok := token.(json.Number)
		if !ok {
			return nil, fmt.Errorf("%s holds %v, want whole numbers", key, token)
		}
		n, err := strconv.ParseUint(number.String(), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s holds %v, want whole numbers below 2^64", key, number)
		}
		ints = append(ints, n)
	}
	_, err := dec.Token()
	return ints, err
}

func expect(dec *json.Decoder, want json.Delim, what string) error {
	token, err := dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("found %v, want %s", token, what)
	}
	return nil
}
