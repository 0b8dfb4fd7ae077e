package clip

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

// The merges of OpenAI's CLIP, best first, one a line. Every model of SDXL's family has this vocabulary; single-file
// checkpoints, which hold no tokenizer, take it for granted.
//
//go:embed vocabulary/merges.txt.gz
var standardMerges []byte

// StandardSize is the number of tokens of OpenAI's vocabulary, StandardLength that of its encodings.
const (
	StandardSize   = 49408
	StandardLength = 77
)

// Standard is OpenAI's vocabulary.
var Standard = sync.OnceValue(func() *Vocabulary {
	z, err := gzip.NewReader(bytes.NewReader(standardMerges))
	if err != nil {
		panic(err) // the embedded file is part of the program
	}
	v := &Vocabulary{Tokens: byteTokens()}
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		left, right, _ := strings.Cut(lines.Text(), " ")
		v.Merges = append(v.Merges, [2]string{left, right})
		v.Tokens = append(v.Tokens, left+right)
	}
	if lines.Err() != nil {
		panic(lines.Err())
	}
	v.Tokens = append(v.Tokens, startOfText, endOfText)
	return v
})

// Tokenizer is what a folder written by [Vocabulary.Write] gives.
func (v *Vocabulary) Tokenizer(maxLength int, pad string) (*Tokenizer, error) {
	files := v.Files(maxLength, pad)
	return ParseTokenizer("vocabulary", func(name string) ([]byte, error) {
		if content, ok := files[name]; ok {
			return content, nil
		}
		return nil, fs.ErrNotExist
	})
}

// Standard says whether the tokenizer has OpenAI's vocabulary and merges.
func (t *Tokenizer) Standard() bool {
	v := Standard()
	if !slices.Equal(t.tokens, v.Tokens) || len(t.ranks) != len(v.Merges) {
		return false
	}
	for i, m := range v.Merges {
		if t.ranks[pair{m[0], m[1]}] != i {
			return false
		}
	}
	return true
}
