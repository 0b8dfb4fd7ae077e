package filter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"fewstep/data/images"
	"fewstep/data/source"

	"golang.org/x/sync/errgroup"
)

// Outcome is what a filter did to the rows that came to it.
type Outcome struct {
	Filter   string   `json:"filter"`
	Rows     int      `json:"rows"`    // that came to it
	Removed  int      `json:"removed"` // by the expression
	Lacking  int      `json:"lacking"` // removed, because a column has no value
	Broken   int      `json:"broken"`  // removed, because the image cannot be read or values cannot be compared
	Examples []string `json:"examples"`
}

// Settings of a run of filters.
type Settings struct {
	Side     int                   // at which sharpness is measured, in pixels
	Hash     bool                  // compute the SHA-256 of the images that are kept
	Progress func(done, total int) // may be nil
}

// mostExamples of what a filter removed are kept.
const mostExamples = 5

// chunk is how many rows are judged at a time.
const chunk = 1024

// headBytes is what is read of an image for its size: enough for most files' metadata.
const headBytes = 64 << 10

// Run applies filters in their order to every row of a source, on all cores, and gives kept the rows that pass all of them,
// in the source's order.
func Run(ctx context.Context, f *source.Files, filters []*Filter, s Settings, kept func(row source.Selected) error) ([]Outcome, error) {
	out := make([]Outcome, len(filters))
	for i, filter := range filters {
		out[i].Filter = filter.Text
	}
	n := f.Len()
	workers := runtime.GOMAXPROCS(0)
	if f.Remote() {
		workers = max(workers, 32)
	}
	for from := 0; from < n; from += chunk {
		verdicts := make([]verdict, min(chunk, n-from))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(workers)
		for i := range verdicts {
			group.Go(func() (err error) {
				if err := ctx.Err(); err != nil {
					return err
				}
				verdicts[i], err = judge(f, from+i, filters, s)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		for i, v := range verdicts {
			for k := range out {
				if k > v.by {
					break
				}
				out[k].Rows++
			}
			if v.by == len(filters) {
				row := f.Select(from + i)
				row.SHA256, row.Width, row.Height = v.hash, int32(v.size.Width), int32(v.size.Height)
				if err := kept(row); err != nil {
					return nil, err
				}
				continue
			}
			o := &out[v.by]
			switch {
			case errors.Is(v.why, ErrLacks):
				o.Lacking++
			case v.why != nil:
				o.Broken++
			default:
				o.Removed++
			}
			if len(o.Examples) < mostExamples {
				o.Examples = append(o.Examples, v.example)
			}
		}
		if s.Progress != nil {
			s.Progress(from+len(verdicts), n)
		}
	}
	return out, nil
}

// verdict says which filter removed a row, len(filters) if none.
type verdict struct {
	by      int
	why     error
	example string
	hash    string
	size    images.Info // of the image, where a filter asked for it
}

// judge applies filters to a row. An image that is not there or cannot be decoded is the row's fault; a source that cannot be
// read is an error.
func judge(f *source.Files, i int, filters []*Filter, s Settings) (v verdict, err error) {
	r := f.Row(i)
	var content []byte
	var unread error // ends the run: of a network, or of a damaged shard
	read := func() ([]byte, error) {
		if content != nil || unread != nil {
			return content, unread
		}
		b, err := f.Encoded(i)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				unread = err
			}
			return nil, err
		}
		content = b
		return b, nil
	}
	var info *images.Info
	row := Row{Key: r.Key, Caption: r.Caption, Columns: f.Columns(i),
		Image: func() (images.Info, error) {
			if info != nil {
				return *info, nil
			}
			if head, err := f.Head(i, headBytes); err == nil {
				if found, err := images.Probe(head); err == nil {
					info = &found
					return found, nil
				}
			}
			b, err := read()
			if err != nil {
				return images.Info{}, err
			}
			found, err := images.Probe(b)
			if err == nil {
				info = &found
			}
			return found, err
		},
		Bytes: func() (int, error) {
			b, err := read()
			b, _ = images.Unmarked(b)
			return len(b), err
		},
	}
	sharpness := -1.0
	row.Sharpness = func() (float64, error) {
		if sharpness >= 0 {
			return sharpness, nil
		}
		b, err := read()
		if err != nil {
			return 0, err
		}
		err = images.With(b, func(m images.RGB) error {
			sharpness = Sharpness(m, s.Side)
			return nil
		})
		return sharpness, err
	}
	for k, filter := range filters {
		keep, err := filter.Keep(row)
		if unread != nil {
			return v, unread
		}
		if keep && err == nil {
			continue
		}
		v = verdict{by: k, why: err}
		switch {
		case err != nil:
			v.example = fmt.Sprintf("%s (%v)", r.Key, err)
		default:
			v.example = fmt.Sprintf("%s (%s)", r.Key, filter.Values(row))
		}
		return v, nil
	}
	v.by = len(filters)
	if info != nil {
		v.size = *info
	}
	if s.Hash {
		b, err := read()
		if err != nil {
			return v, err
		}
		b, _ = images.Unmarked(b)
		sum := sha256.Sum256(b)
		v.hash = hex.EncodeToString(sum[:])
	}
	return v, nil
}
