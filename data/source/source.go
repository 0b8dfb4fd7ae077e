// Package source opens captioned images where people have them: parquet files, webdataset tars (img2dataset's among them),
// MosaicML MDS shards, zip files, and folders of images with captions in .txt, .caption, .json, metadata.jsonl or .csv; on
// disk or in S3-compatible storage.
//
// Images stay where they are and are read one by one. What is kept of a shard is an index of its rows (texts, numbers, where
// the image lies), which is mapped from a file of the cache folder, so that memory does not grow with the source.
package source

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Row describes one image of a source.
type Row struct {
	Key     string   // unique name, or "row<number>"
	Caption string   // fine caption
	Also    []string // further captions of the same image, each as likely as Caption
	Kind    string   // kind of thing, without details; may be empty
	Coarse  string   // group caption shared by many images; may be empty
	Concept string   // what is shown, without the style; may be empty
	Style   string   // may be empty
	Split   string   // "train", "eval" (of validation, val, test and the like) or another name; may be empty
	Weight  float32  // expected draws per epoch; 1 where the source says nothing
}

// Source is a numbered list of captioned images, which need not be files. It is safe for concurrent use.
type Source interface {
	Len() int
	Row(i int) Row                 // panics outside [0, Len)
	Encoded(i int) ([]byte, error) // image i as a file that images.Decode reads
	State() string                 // changes whenever what the source gives may have changed
	Close() error
}

// Flaw is a row that is left out because its texts cannot be used.
type Flaw struct {
	Key string `json:"key"`
	Why string `json:"why"`
}

// Skipped counts entries that were left out for one reason.
type Skipped struct {
	Reason  string `json:"reason"`
	Count   int    `json:"count"`
	Example string `json:"example"`
}

func (s Skipped) String() string {
	return fmt.Sprintf("%d %s (as %s)", s.Count, s.Reason, s.Example)
}

// tally counts entries by reason.
type tally map[string]*Skipped

func (t tally) add(reason, example string) { t.addN(reason, example, 1) }

func (t tally) addN(reason, example string, n int) {
	if n == 0 {
		return
	}
	if t[reason] == nil {
		t[reason] = &Skipped{Reason: reason, Example: example}
	}
	t[reason].Count += n
}

// list is in the order of the counts.
func (t tally) list() (out []Skipped) {
	for _, s := range t {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Skipped) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Reason, b.Reason))
	})
	return out
}

// Options says how a source is opened.
type Options struct {
	Uncaptioned bool                  // rows need no caption
	Progress    func(done, total int) // told of shards that were indexed; may be nil
	Index       string                // folder for indexes; "" = fewstep's folder in the user's cache
}
