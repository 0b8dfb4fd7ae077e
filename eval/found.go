package eval

import (
	"context"
	"fmt"
	"image"
	"io/fs"
	"path/filepath"
	"strings"

	"fewstep/data/images"
)

// found reads an entry's images that were made elsewhere: the pictures of its folder in the order of their names, one
// for each prompt. Every file is looked at, so that one error names all that is wrong.
func (r *runner) found(ctx context.Context, e Entry, look func(batch) error) error {
	prompts, side := len(r.protocol.prompts), r.protocol.resolution
	paths, err := pictures(e.Images)
	if err != nil {
		return err
	}
	if len(paths) != prompts {
		return fmt.Errorf("%s holds %d images, the protocol has %d prompts: one image for each is needed, in the order of the file names", e.Images, len(paths), prompts)
	}
	var bad []error
	for first := 0; first < prompts; first += r.protocol.settings.Batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := batch{first: first, n: min(r.protocol.settings.Batch, prompts-first)}
		for _, path := range paths[first : first+b.n] {
			img, err := readPicture(path)
			if err == nil && img.Rect.Size() != image.Pt(side, side) && !r.protocol.judge.AnySize() {
				err = fmt.Errorf("%s: %d×%d pixels, where all images must be %d×%d: conventions with Inception features (--convention) take any size", path, img.Rect.Dx(), img.Rect.Dy(), side, side)
			}
			if err != nil {
				bad = append(bad, err)
				continue
			}
			b.images = append(b.images, img)
		}
		if len(bad) == 0 {
			if err := look(b); err != nil {
				return err
			}
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("%s: %d of %d images cannot be measured:\n%w", e.Images, len(bad), prompts, firstOf(bad))
	}
	return nil
}

// pictures lists the image files below a folder in the order of their paths.
func pictures(dir string) (paths []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if images.IsName(path) && !entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			paths = append(paths, path)
		}
		return nil
	})
	return paths, err
}

func readPicture(path string) (*image.NRGBA, error) {
	m, err := images.Open(path)
	if err != nil {
		return nil, err
	}
	return m.Image(), nil
}
