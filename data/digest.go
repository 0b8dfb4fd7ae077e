package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"fewstep/data/source"
)

// largest is the size of images from which on a digest does without reading them.
const largest = 16 << 30

// Digest is a SHA-256 over every row's key, captions, split, weight and encoded image, in order: what a run's lineage
// remembers of its data. Of a remote source, and of one of more than 16 GiB, it is over the texts, the sizes and the ETags,
// so that a start need not read all images. Scenes are not drawn for it: their renderer's digest stands for them.
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
	files, isFiles := s.source.(*source.Files)
	quick := isFiles && (files.Remote() || files.Bytes() > largest)
	if quick {
		write([]byte(files.Fingerprint()))
	}
	drawn, draws := s.source.(*sceneSource)
	if draws {
		write([]byte(drawn.State()))
	}
	for i := range s.Len() {
		if quick && s.keep == nil {
			break // the fingerprint holds the texts of all rows
		}
		r := s.Row(i)
		for _, text := range append([]string{r.Key, r.Caption, r.Kind, r.Coarse, r.Split}, r.Also...) {
			write([]byte(text))
		}
		if err := binary.Write(h, binary.LittleEndian, r.Weight); err != nil {
			return "", err
		}
		if quick || draws {
			continue
		}
		content, err := s.Encoded(i)
		if err != nil {
			return "", err
		}
		write(content)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
