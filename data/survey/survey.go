// Package survey tells what a data set holds before anything is trained on it.
package survey

import (
	"context"
	"fmt"
	"image"
	"math"
	"slices"
	"strings"

	"fewstep/data"
	"fewstep/data/images"
	"fewstep/data/source"
	"fewstep/model/clip"

	"golang.org/x/sync/errgroup"
)

// Report is what a source holds.
type Report struct {
	Source      string           `json:"source"`
	Rows        int              `json:"rows"`
	Shards      int              `json:"shards"`
	Bytes       int64            `json:"bytes"` // of the images, as far as the source says it
	Splits      map[string]int   `json:"splits,omitempty"`
	Fingerprint string           `json:"fingerprint"`
	Skipped     []source.Skipped `json:"skipped"`
	Flawed      int              `json:"flawed"` // rows whose caption cannot be used
	Flaws       []source.Flaw    `json:"flaws"`  // the first of them
	Looked      int              `json:"looked"` // rows that columns and captions are told from, evenly spread
	Words       Range            `json:"words"`  // of captions
	Listed      int              `json:"listed"` // rows with several captions
	Cuts        clip.Cuts        `json:"cuts"`   // captions that text encoders see the beginning of
	Columns     []Column         `json:"columns"`
	Images      Images           `json:"images"`
}

// Range of numbers.
type Range struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// Column is what the source says beside captions.
type Column struct {
	Name    string `json:"name"`
	Rows    int    `json:"rows"` // of those looked at, with a value
	Range   *Range `json:"range,omitempty"`
	Example string `json:"example,omitempty"`
}

// Images is what was found in those that were decoded.
type Images struct {
	Decoded  int              `json:"decoded"`
	Bad      int              `json:"bad"`
	Reasons  []source.Skipped `json:"reasons"` // of the bad ones
	Formats  map[string]int   `json:"formats"`
	Width    Range            `json:"width"`
	Height   Range            `json:"height"`
	Short    Range            `json:"short_side"`
	Below    int              `json:"below"` // with a shorter side below Settings.Side
	BelowThe int              `json:"below_side"`
}

// Settings of a survey.
type Settings struct {
	Tokenizer []*clip.Tokenizer     // of the text encoders that captions are for
	Images    int                   // that are decoded, evenly spread; < 0 = all
	Side      int                   // that training will use, in pixels
	Counting  func(done, total int) // told of rows whose captions' tokens are counted; may be nil
	Progress  func(done, total int) // of the images; may be nil
	Sheet     func(m images.RGB)    // gets the first images, in the source's order; may be nil
	Tiles     int                   // how many Sheet gets
}

// mostRows are looked at for columns and captions, and mostCounted for the tokens of captions.
const (
	mostRows    = 1_000_000
	mostCounted = 100_000
)

// mostFlaws are listed.
const mostFlaws = 20

// Make looks at a set, which may be unchecked.
func Make(ctx context.Context, address string, set *data.Set, s Settings) (*Report, error) {
	r := &Report{Source: address, Rows: set.Len(), Skipped: set.Skipped(), Splits: map[string]int{}, Flaws: []source.Flaw{}}
	if f := set.Files(); f != nil {
		shards, _ := f.Shards()
		r.Shards, r.Bytes, r.Splits, r.Fingerprint = len(shards), f.Bytes(), f.Splits(), f.Fingerprint()
	} else {
		var err error
		if r.Fingerprint, err = set.Digest(); err != nil {
			return nil, err
		}
		for i := range set.Len() {
			r.Splits[set.Row(i).Split]++
		}
	}
	for _, bad := range set.Bad() {
		if r.Flawed++; r.Flawed <= mostFlaws {
			r.Flaws = append(r.Flaws, source.Flaw{Key: bad.Key, Why: bad.Err.Error()})
		}
	}
	r.texts(set)
	rows := spread(mostCounted, set.Len())
	r.Cuts = clip.CountCuts(s.Tokenizer, len(rows), func(i int) (string, []string) {
		row := set.Row(rows[i])
		return row.Key, append([]string{row.Caption}, row.Also...)
	}, s.Counting)
	if err := r.look(ctx, set, s); err != nil {
		return nil, err
	}
	return r, nil
}

// spread gives n of total numbers, evenly.
func spread(n, total int) (out []int) {
	n = min(n, total)
	for i := range n {
		out = append(out, int(int64(i)*int64(total)/int64(n)))
	}
	return out
}

func (r *Report) texts(set *data.Set) {
	var words []float64
	numbers := map[string][]float64{}
	columns := map[string]*Column{}
	for _, i := range spread(mostRows, set.Len()) {
		r.Looked++
		row := set.Row(i)
		words = append(words, float64(len(strings.Fields(row.Caption))))
		if len(row.Also) > 0 {
			r.Listed++
		}
		for name, v := range set.Columns(i) {
			c := columns[name]
			if c == nil {
				c = &Column{Name: name, Example: fmt.Sprint(v)}
				columns[name] = c
			}
			c.Rows++
			if x, ok := v.(float64); ok {
				numbers[name] = append(numbers[name], x)
			}
		}
	}
	r.Words = rangeOf(words)
	for name, c := range columns {
		if len(numbers[name]) == c.Rows {
			x := rangeOf(numbers[name])
			c.Range, c.Example = &x, ""
		}
		r.Columns = append(r.Columns, *c)
	}
	slices.SortFunc(r.Columns, func(a, b Column) int { return strings.Compare(a.Name, b.Name) })
}

func rangeOf(v []float64) Range {
	if len(v) == 0 {
		return Range{}
	}
	slices.Sort(v)
	return Range{v[0], v[len(v)/2], v[len(v)-1]}
}

func (r *Report) look(ctx context.Context, set *data.Set, s Settings) error {
	n := s.Images
	if n < 0 {
		n = set.Len()
	}
	r.Images = Images{Formats: map[string]int{}, BelowThe: s.Side}
	reasons := map[string]*source.Skipped{}
	var width, height, short []float64
	numbers := spread(n, set.Len())
	const chunk = 256
	for from := 0; from < len(numbers); from += chunk {
		part := numbers[from:min(from+chunk, len(numbers))]
		type looked struct {
			info images.Info
			err  error
			tile *images.RGB
		}
		found := make([]looked, len(part))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(set.Readers())
		for k, i := range part {
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				content, err := set.Encoded(i)
				if err == nil {
					if found[k].info, err = images.Probe(content); err == nil {
						err = images.With(content, func(m images.RGB) error {
							if from+k < s.Tiles {
								tile := m.CenterSquare().Resize(Tile, Tile, images.Bicubic)
								found[k].tile = &tile
							}
							return nil
						})
					}
				}
				found[k].err = err
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for k, x := range found {
			if x.err != nil {
				r.Images.Bad++
				why := x.err.Error()
				if reasons[why] == nil {
					reasons[why] = &source.Skipped{Reason: why, Example: set.Row(part[k]).Key}
				}
				reasons[why].Count++
				continue
			}
			r.Images.Decoded++
			r.Images.Formats[x.info.Format]++
			width, height = append(width, float64(x.info.Width)), append(height, float64(x.info.Height))
			least := min(x.info.Width, x.info.Height)
			short = append(short, float64(least))
			if least < s.Side {
				r.Images.Below++
			}
			if x.tile != nil && s.Sheet != nil {
				s.Sheet(*x.tile)
			}
		}
		if s.Progress != nil {
			s.Progress(from+len(part), len(numbers))
		}
	}
	for _, s := range reasons {
		r.Images.Reasons = append(r.Images.Reasons, *s)
	}
	slices.SortFunc(r.Images.Reasons, func(a, b source.Skipped) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	r.Images.Width, r.Images.Height, r.Images.Short = rangeOf(width), rangeOf(height), rangeOf(short)
	return nil
}

// Tile is the side of a sheet's images in pixels.
const Tile = 160

// Sheet lays tiles out in a grid.
func Sheet(tiles []images.RGB) image.Image {
	columns := max(1, int(math.Ceil(math.Sqrt(float64(len(tiles))))))
	out := images.New(columns*Tile, (len(tiles)+columns-1)/columns*Tile)
	for i, t := range tiles {
		x, y := i%columns*Tile, i/columns*Tile
		for row := range Tile {
			copy(out.Pix[((y+row)*out.Width+x)*3:], t.Pix[row*Tile*3:(row+1)*Tile*3])
		}
	}
	return out.Image()
}
