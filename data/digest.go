package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// Digest is a SHA-256 over every row's key, captions, split, weight and encoded image, in order: what a run's lineage
// remembers of its data.
func (s *Set) Digest() (string, error) {
	if s.digest != "" {
		return s.digest, nil
	}
	h := sha256.New()
	write := func(b []byte) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for i, r := range s.rows {
		for _, text := range []string{r.Key, r.Caption, r.Kind, r.Coarse, r.Split} {
			write([]byte(text))
		}
		if err := binary.Write(h, binary.LittleEndian, r.Weight); err != nil {
			return "", err
		}
		content, err := s.files[i].read()
		if err != nil {
			return "", err
		}
		write(content)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
