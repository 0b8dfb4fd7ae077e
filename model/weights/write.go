package weights

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"fewstep/internal/atomicfile"
)

// Write saves tensors and metadata as a safetensors file, atomically. The order
// of tensors is the reference implementation's (dtype by descending alignment,
// then name), whatever their order here, so equal content gives an equal file.
// One tensor's data is held at a time. When the metadata has
// "modelspec.hash_sha256" (see DataHash), the data written must match it.
// Errors name the file and the tensor.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	ordered := inFileOrder(tensors)
	header, err := buildHeader(ordered, metadata)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		digest := sha256.New()
		want, check := metadata[KeyHash]
		if check {
			w = io.MultiWriter(w, digest)
		}
		if err := writeData(w, ordered); err != nil {
			return err
		}
		if check && formatHash(digest) != want {
			return fmt.Errorf("the data has the hash %s, but the metadata says %s", formatHash(digest), want)
		}
		return nil
	})
}

// DataHash is modelspec's hash_sha256 of the file that Write makes of tensors:
// "0x" and the hex SHA-256 of the data after the header. It calls every Fill.
func DataHash(tensors []Tensor) (string, error) {
	digest := sha256.New()
	if err := writeData(digest, inFileOrder(tensors)); err != nil {
		return "", fmt.Errorf("cannot hash tensors: %w", err)
	}
	return formatHash(digest), nil
}

func formatHash(digest hash.Hash) string { return "0x" + hex.EncodeToString(digest.Sum(nil)) }

func inFileOrder(tensors []Tensor) []Tensor {
	ordered := slices.Clone(tensors)
	slices.SortStableFunc(ordered, func(a, b Tensor) int {
		if c := layouts[b.DType].rank - layouts[a.DType].rank; c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return ordered
}

func writeData(w io.Writer, ordered []Tensor) error {
	for _, t := range ordered {
		data, err := t.Bytes()
		if err != nil {
			return err
		}
		err = guardFaults(func() error {
			_, err := w.Write(data)
			return err
		})
		if err != nil {
			return t.errorf("%w", err)
		}
	}
	return nil
}

// buildHeader is the size prefix and the JSON header, padded with spaces to 8 bytes.
func buildHeader(ordered []Tensor, metadata map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	if metadata != nil {
		for key, value := range metadata {
			if !utf8.ValidString(key) || !utf8.ValidString(value) {
				return nil, fmt.Errorf("metadata key %q: not valid UTF-8", key)
			}
		}
		b.WriteString(`"` + metadataKey + `":`)
		writeJSON(&b, metadata)
	}
	var at uint64
	seen := map[string]bool{metadataKey: true}
	for _, t := range ordered {
		if !utf8.ValidString(t.Name) {
			return nil, fmt.Errorf("tensor %q: its name is not valid UTF-8", t.Name)
		}
		if seen[t.Name] {
			return nil, t.errorf("the name is taken")
		}
		seen[t.Name] = true
		size, err := byteSize(t.DType, t.Shape)
		if err != nil {
			return nil, t.errorf("%w", err)
		}
		if at+size < at {
			return nil, t.errorf("the file would be too large")
		}
		if b.Len() > 9 {
			b.WriteByte(',')
		}
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		writeJSON(&b, t.Name)
		b.WriteByte(':')
		writeJSON(&b, struct {
			DType   DType     `json:"dtype"`
			Shape   []int     `json:"shape"`
			Offsets [2]uint64 `json:"data_offsets"`
		}{t.DType, shape, [2]uint64{at, at + size}})
		at += size
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	header := b.Bytes()
	if len(header)-8 > maxHeaderBytes {
		return nil, errors.New("the header would be larger than the format's 100 MB")
	}
	binary.LittleEndian.PutUint64(header, uint64(len(header)-8))
	return header, nil
}

// writeJSON appends v, a string or a plain struct or map of them, without the
// line break and the HTML escapes of the standard encoder.
func writeJSON(b *bytes.Buffer, v any) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // strings and integers always encode
	}
	b.Truncate(b.Len() - 1)
}
