package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"fewstep/internal/atomicfile"
)

// kept is a row's folder of images, one PNG for each prompt by its number: "000042.png". A stopped row goes on from
// what is there. The folder says which settings made it and takes no images of others.
type kept struct {
	dir    string
	broken func(path string, err error) // told of every image that has to be drawn again
}

// keptName is the file in which a folder of images says how they were made.
const keptName = "settings.json"

type keptSettings struct {
	Digest string `json:"digest"` // of model, protocol, sampler and seed
	Model  string `json:"model"`
	Steps  int    `json:"steps"`
}

// openKept opens or makes a row's folder below dir; nil where dir is "".
func openKept(dir, row string, s keptSettings, broken func(string, error)) (*kept, error) {
	if dir == "" {
		return nil, nil
	}
	k := &kept{filepath.Join(dir, row), broken}
	path := filepath.Join(k.dir, keptName)
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		var old keptSettings
		if err := json.Unmarshal(raw, &old); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if old.Digest != s.Digest {
			return nil, fmt.Errorf("%s holds images of %s at %d steps made by other settings, weights or captions: keep these in another folder, or remove it", k.dir, old.Model, old.Steps)
		}
		return k, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if raw, err = json.Marshal(s); err != nil {
		return nil, err
	}
	return k, atomicfile.WriteBytes(path, append(raw, '\n'))
}

func (k *kept) path(number int) string { return filepath.Join(k.dir, fmt.Sprintf("%06d.png", number)) }

// save writes one image, whole or not at all.
func (k *kept) save(number int, img *image.NRGBA) error {
	return atomicfile.Write(k.path(number), func(w io.Writer) error {
		return (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(w, img)
	})
}

// load returns images first to first+n−1, or nil where one is missing, broken or of another size.
func (k *kept) load(first, n, side int) []*image.NRGBA {
	if k == nil {
		return nil
	}
	out := make([]*image.NRGBA, n)
	for i := range out {
		path := k.path(first + i)
		img, err := readPicture(path)
		if err == nil && img.Rect.Size() != image.Pt(side, side) {
			err = fmt.Errorf("it is of %v pixels, not %d×%d", img.Rect.Size(), side, side)
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				k.broken(path, err)
			}
			return nil
		}
		out[i] = img
	}
	return out
}
