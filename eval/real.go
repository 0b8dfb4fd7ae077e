package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"fewstep/data"
	"fewstep/data/images"

	"golang.org/x/sync/errgroup"
)

// realImages is a list of real images: a folder of pictures in the order of their names, or a captioned parquet file.
type realImages struct {
	n    int
	name func(i int) string
	read func(i int) ([]byte, error)
}

// openReal lists the images of a source; of a folder those named alone, if any are.
func openReal(path string, named []string) (*realImages, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		set, err := data.Open(path, data.Options{MaxBad: 1 << 30}) // broken ones are counted here, not there
		if err != nil {
			return nil, err
		}
		if bad := set.Bad(); len(bad) > 0 {
			return nil, fmt.Errorf("%s: %d images cannot be decoded, the first is %s: %w", path, len(bad), bad[0].Key, bad[0].Err)
		}
		return &realImages{set.Len(), func(i int) string { return set.Row(i).Key }, set.Encoded}, nil
	}
	var paths []string
	for _, name := range named {
		paths = append(paths, filepath.Join(path, filepath.Base(name)))
	}
	if paths == nil {
		if paths, err = pictures(path); err != nil {
			return nil, err
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s holds no pictures: %w", path, fs.ErrNotExist)
	}
	return &realImages{len(paths), func(i int) string { return paths[i] }, func(i int) ([]byte, error) { return os.ReadFile(paths[i]) }}, nil
}

// real looks at the real images of Spec.Reference. Every broken file is named and counted before that is an error.
func (s *Spec) real(p *protocol) (features []Features, sum string, err error) {
	list, err := openReal(s.Reference, s.Captions.Files)
	if err != nil {
		return nil, "", err
	}
	h := sha256.New()
	var bad []error
	const chunk = 64 // images held at a time
	for start := 0; start < list.n; start += chunk {
		if start == 0 {
			s.report(Progress{Model: "real images", Total: list.n})
		}
		n := min(chunk, list.n-start)
		shown, failures := make([]*image.NRGBA, n), make([]error, n)
		var decoding errgroup.Group
		decoding.SetLimit(runtime.GOMAXPROCS(0))
		for k := range n {
			raw, err := list.read(start + k)
			if err != nil {
				failures[k] = err
				continue
			}
			h.Write(raw)
			decoding.Go(func() error {
				shown[k], failures[k] = show(raw, p)
				return nil
			})
		}
		_ = decoding.Wait()
		for k, err := range failures {
			if err != nil {
				bad = append(bad, fmt.Errorf("%s: %w", list.name(start+k), err))
			}
		}
		if len(bad) > 0 {
			continue
		}
		f, err := p.judge.Features(shown)
		if err != nil {
			return nil, "", fmt.Errorf("%s: images from %s on: %w", s.Reference, list.name(start), err)
		}
		features = append(features, f...)
		s.report(Progress{Model: "real images", Done: len(features), Total: list.n})
	}
	if len(bad) > 0 {
		return nil, "", fmt.Errorf("%s: %d of %d real images cannot be used:\n%w", s.Reference, len(bad), list.n, firstOf(bad))
	}
	return features, hex.EncodeToString(h.Sum(nil)), nil
}

// show decodes an image as the judge takes it.
func show(raw []byte, p *protocol) (*image.NRGBA, error) {
	img, err := images.Decode(raw)
	if err != nil {
		return nil, err
	}
	if !p.judge.AnySize() {
		if img = img.CenterSquare(); img.Width != p.resolution {
			img = img.Resize(p.resolution, p.resolution, images.Bicubic)
		}
	}
	return img.Image(), nil
}

// firstOf joins the first few errors and counts the rest.
func firstOf(bad []error) error {
	const named = 5
	err := errors.Join(bad[:min(named, len(bad))]...)
	if len(bad) > named {
		err = fmt.Errorf("%w\nand %d more", err, len(bad)-named)
	}
	return err
}
