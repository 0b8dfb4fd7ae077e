package data

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"

	"fewstep/data/images"
)

// Seen is what an Open found out about the images of a source. The next one takes its word for it while the files' sizes and
// times and the rows' texts are the same, and neither decodes nor hashes an image.
type Seen struct {
	State  string    `json:"state"`  // of files and rows: see state
	Digest string    `json:"digest"` // of the set
	Bad    []SeenBad `json:"bad,omitempty"`
}

// SeenBad is an image that could not be decoded.
type SeenBad struct {
	Row int    `json:"row"` // of the source
	Why string `json:"why"`
}

// Seen returns what is known of the set's source.
func (s *Set) Seen() (*Seen, error) {
	digest, err := s.Digest()
	if err != nil {
		return nil, err
	}
	out := &Seen{State: s.state, Digest: digest}
	for _, b := range s.bad {
		out.Bad = append(out.Bad, SeenBad{b.row, b.Err.Error()})
	}
	return out, nil
}

// holds says whether it is of a source in this state and with so many rows.
func (s *Seen) holds(state string, rows int) bool {
	if s == nil || state == "" || s.State != state || s.Digest == "" {
		return false
	}
	return !slices.ContainsFunc(s.Bad, func(b SeenBad) bool { return b.Row < 0 || b.Row >= rows })
}

// state stands for all that Open would read, as long as nobody changes a file and sets its time back.
func state(path string, rows []Row, files []file) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, "decoder", images.DecoderVersion)
	stat := func(path string) error {
		info, err := os.Stat(path)
		if err == nil {
			fmt.Fprintf(h, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		}
		return err
	}
	if err := stat(path); err != nil {
		return "", err
	}
	last := path
	for i, r := range rows {
		fmt.Fprintf(h, "%q\n", []any{r.Key, r.Caption, r.Kind, r.Coarse, r.Split, r.Concept, r.Style, fmt.Sprint(r.Weight)})
		if files[i].path == last { // another row of the same parquet file
			continue
		}
		last = files[i].path
		if err := stat(last); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
