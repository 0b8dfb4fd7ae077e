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
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"fewstep/internal/atomicfile"
)

// Options of Save.
type Options struct {
	Metadata map[string]string
	Hash     bool                // put the data's DataHash into the metadata as KeyHash
	Finite   bool                // refuse infinities and NaN
	Progress func(written int64) // called with the bytes of data written so far, after each piece; may be nil
}

// Write is Save without options.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	return Save(path, tensors, Options{Metadata: metadata})
}

// Save saves tensors and metadata as a safetensors file, atomically. The order
// of tensors is the reference implementation's (dtype by descending alignment,
// then name), whatever their order here, so equal content gives an equal file.
// One tensor's data is held at a time, and mapped data is let go once written.
// When the metadata has KeyHash and Hash is not set, the data written must
// match it. Errors name the file and the tensor.
func Save(path string, tensors []Tensor, opt Options) error {
	ordered := inFileOrder(tensors)
	metadata := opt.Metadata
	want, check := metadata[KeyHash]
	if opt.Hash {
		check = false
		metadata = maps.Clone(metadata)
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[KeyHash] = formatHash(sha256.New()) // of the length of the one that will stand there
	}
	header, err := buildHeader(ordered, metadata)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		if _, err := w.Write(header); err != nil {
			return err
		}
		var digest hash.Hash
		if check || opt.Hash {
			digest = sha256.New()
		}
		if err := writeData(w, digest, ordered, opt); err != nil {
			return err
		}
		switch {
		case check && formatHash(digest) != want:
			return fmt.Errorf("the data has the hash %s, but the metadata says %s", formatHash(digest), want)
		case opt.Hash:
			metadata[KeyHash] = formatHash(digest)
			if header, err = buildHeader(ordered, metadata); err != nil {
				return err
			}
			_, err = w.(io.WriterAt).WriteAt(header, 0)
			return err
		}
		return nil
	})
}

// DataHash is modelspec's hash_sha256 of the file that Write makes of tensors:
// "0x" and the hex SHA-256 of the data after the header. It calls every Fill.
func DataHash(tensors []Tensor) (string, error) {
	digest := sha256.New()
	if err := writeData(io.Discard, digest, inFileOrder(tensors), Options{}); err != nil {
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

// pieceBytes is how much is written, or hashed meanwhile, before progress is told.
const pieceBytes = 16 << 20

// writeData writes the data to w and digest, which may be nil, at the same time; what it takes of opt is Finite and
// Progress.
func writeData(w io.Writer, digest hash.Hash, ordered []Tensor, opt Options) error {
	var written int64
	for _, t := range ordered {
		data, err := t.Bytes()
		if err != nil {
			return err
		}
		t.willNeed(data)
		before := 0
		for piece := range slices.Chunk(data, pieceBytes) {
			err := writePiece(w, piece, func() error {
				if digest != nil {
					digest.Write(piece)
				}
				if opt.Finite {
					if i := notFinite(piece, t.DType); i >= 0 {
						return errNotFinite(before/t.DType.Size() + i)
					}
				}
				return nil
			})
			if err != nil {
				return t.errorf("%w", err)
			}
			t.release(piece)
			before += len(piece)
			written += int64(len(piece))
			if opt.Progress != nil {
				opt.Progress(written)
			}
		}
	}
	return nil
}

// writePiece writes a part of the data while meanwhile reads it.
func writePiece(w io.Writer, piece []byte, meanwhile func() error) error {
	read := make(chan error, 1)
	go func() { read <- guardFaults(meanwhile) }()
	err := guardFaults(func() error {
		_, err := w.Write(piece)
		return err
	})
	return errors.Join(err, <-read)
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
