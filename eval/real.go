package eval

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strings"

	"fewstep/data"
	"fewstep/data/feed"
	"fewstep/data/images"
	files "fewstep/data/source"
)

// realImages is a list of real images: a folder of pictures in the order of their names, or another source of images.
type realImages struct {
	n     int
	name  func(i int) string
	read  func(i int) ([]byte, error)
	close func() error
}

// openReal lists the images of a source; those named alone, if any are.
func openReal(ctx context.Context, path string, named []string) (*realImages, error) {
	var paths []string
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if paths, err = pictures(path); err != nil {
			return nil, err
		}
	}
	if len(paths) > 0 {
		if named != nil {
			paths = nil
		}
		for _, name := range named {
			paths = append(paths, filepath.Join(path, filepath.Base(name)))
		}
		return &realImages{len(paths), func(i int) string { return paths[i] }, func(i int) ([]byte, error) { return os.ReadFile(paths[i]) }, func() error { return nil }}, nil
	}
	set, err := data.Open(ctx, path, data.Options{MaxBad: 1 << 30, Uncaptioned: true, Unchecked: true}) // broken ones are counted here
	if errors.Is(err, files.ErrNoImages) {
		return nil, fmt.Errorf("%s holds no pictures: %w", path, err)
	} else if err != nil {
		return nil, err
	}
	rows, err := rowsNamed(set, named)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), set.Close())
	}
	return &realImages{len(rows), func(i int) string { return set.Row(rows[i]).Key }, func(i int) ([]byte, error) { return set.Encoded(rows[i]) }, set.Close}, nil
}

// rowsNamed are the rows of the named files, as in the zip file that COCO distributes, or all rows where no file is named
// or the set's keys are no names of files.
func rowsNamed(set *data.Set, named []string) (rows []int, err error) {
	byName := map[string]int{}
	for i := range set.Len() {
		rows = append(rows, i)
		if named != nil {
			byName[filepath.Base(set.Row(i).Key)] = i
		}
	}
	if named == nil {
		return rows, nil
	}
	var wanted []int
	missing := ""
	for _, name := range named {
		name = filepath.Base(name)
		i, ok := byName[strings.TrimSuffix(name, filepath.Ext(name))]
		if !ok {
			missing = name
			continue
		}
		wanted = append(wanted, i)
	}
	switch {
	case len(wanted) == 0:
		return rows, nil
	case missing != "":
		return nil, fmt.Errorf("%d of %d named images are not there, as %s", len(named)-len(wanted), len(named), missing)
	}
	return wanted, nil
}

// real looks at the real images of Spec.Reference. Every broken file is named and counted before that is an error.
func (s *Spec) real(ctx context.Context, p *protocol) (features []Features, sum string, err error) {
	list, err := openReal(ctx, s.Reference, s.Captions.Files)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, list.close()) }()
	h := sha256.New()
	var bad []error
	const chunk = 64 // images held at a time
	for start := 0; start < list.n; start += chunk {
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		if start == 0 {
			s.report(Progress{Model: "real images", Total: list.n})
		}
		n := min(chunk, list.n-start)
		shown, failures := make([]*image.NRGBA, n), make([]error, n)
		files := make([][]byte, n)
		feed.Each(n, func(k int) {
			if files[k], failures[k] = list.read(start + k); failures[k] == nil {
				shown[k], failures[k] = show(files[k], p)
			}
		})
		for _, raw := range files {
			h.Write(raw)
		}
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
