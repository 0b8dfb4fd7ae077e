package data

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"fewstep/data/images"
)

// Seen is what an Open found out about the images of a source. The next one takes its word for it while the source's state
// is the same, and neither decodes nor hashes an image.
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
		if b.row >= 0 {
			out.Bad = append(out.Bad, SeenBad{b.row, b.Err.Error()})
		}
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

// state stands for all that Open would read, and for the decoder, as long as nobody changes a file and sets its time back.
func (s *Set) sourceState() string {
	state := s.source.State()
	if state == "" {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "decoder %d, source %s, %d rows", images.DecoderVersion, state, s.source.Len())
	return hex.EncodeToString(h.Sum(nil))
}
