package clip

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Unseen is the end of a text that Encode leaves out, as its tokens spell it: lower case, single spaces; "" = nothing is
// left out.
func (t *Tokenizer) Unseen(text string) string {
	if t.fits(text) {
		return ""
	}
	ids := t.encodeText(text)
	return t.spell(ids[min(len(ids), t.MaxLength-2):])
}

// fits says of a short text, without taking it apart, that it is not cut: a token of ASCII has at least one byte.
func (t *Tokenizer) fits(text string) bool {
	if len(text) > t.MaxLength-2 {
		return false
	}
	for i := range len(text) {
		if text[i] >= 0x80 {
			return false
		}
	}
	return true
}

// spell is the text of tokens.
func (t *Tokenizer) spell(ids []int32) string {
	var out []byte
	for _, id := range ids {
		token, ends := strings.CutSuffix(t.Token(id), endOfWord)
		for _, r := range token {
			if b, ok := runeBytes[r]; ok {
				out = append(out, b)
			} else {
				out = append(out, string(r)...)
			}
		}
		if ends {
			out = append(out, ' ')
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(out), "\uFFFD"))
}

// runeBytes is the inverse of byteRunes.
var runeBytes = func() map[rune]byte {
	out := map[rune]byte{}
	for b, r := range byteRunes {
		out[r] = byte(b)
	}
	return out
}()

// Cuts tells of captions that have more tokens than text encoders take.
type Cuts struct {
	Captions int   `json:"captions"` // that were looked at
	Cut      int   `json:"cut"`      // of them
	Tokens   int   `json:"tokens"`   // that the encoders take, with the begin and end tokens
	Longest  Cut   `json:"longest"`  // of those that are cut
	Examples []Cut `json:"examples"` // the first
}

// Cut is a caption that is longer than text encoders take.
type Cut struct {
	Key    string `json:"key"`
	Tokens int    `json:"tokens"` // with the begin and end tokens
	Unseen string `json:"unseen"` // what of the caption the encoders are not told
}

// mostCuts is how many examples are kept.
const mostCuts = 3

// CutOf tells what tokenizers cut of a caption; false = nothing. Of several the one that cuts most counts.
func CutOf(tokenizers []*Tokenizer, caption string) (cut Cut, is bool) {
	for _, t := range tokenizers {
		if t.fits(caption) {
			continue
		}
		ids := t.encodeText(caption)
		if n := 2 + len(ids); n > max(t.MaxLength, cut.Tokens) {
			cut, is = Cut{Tokens: n, Unseen: t.spell(ids[t.MaxLength-2:])}, true
		}
	}
	return cut, is
}

// different leaves out tokenizers that cut as one before does: SDXL's two differ in what they pad with.
func different(tokenizers []*Tokenizer) (out []*Tokenizer) {
	for _, t := range tokenizers {
		if !slices.ContainsFunc(out, func(o *Tokenizer) bool {
			return o.MaxLength == t.MaxLength && o.repairs == t.repairs && slices.Equal(o.tokens, t.tokens) && maps.Equal(o.ranks, t.ranks)
		}) {
			out = append(out, t)
		}
	}
	return out
}

// CountCuts looks at the captions of rows 0 … n−1 on all cores. told hears how many rows are done, from several goroutines;
// nil = nobody does.
func CountCuts(tokenizers []*Tokenizer, n int, captions func(i int) (key string, texts []string), told func(done, total int)) (c Cuts) {
	tokenizers = different(tokenizers)
	for _, t := range tokenizers {
		c.Tokens = max(c.Tokens, t.MaxLength)
	}
	const part = 256
	parts := make([]Cuts, (n+part-1)/part)
	var wait sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var done atomic.Int64
	for p := range parts {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			end := min((p+1)*part, n)
			for i := p * part; i < end; i++ {
				key, texts := captions(i)
				for _, text := range texts {
					parts[p].Captions++
					cut, is := CutOf(tokenizers, text)
					if !is {
						continue
					}
					cut.Key = key
					parts[p].Cut++
					if len(parts[p].Examples) < mostCuts {
						parts[p].Examples = append(parts[p].Examples, cut)
					}
					if cut.Tokens > parts[p].Longest.Tokens {
						parts[p].Longest = cut
					}
				}
			}
			if now := done.Add(int64(end - p*part)); told != nil {
				told(int(now), n)
			}
		})
	}
	wait.Wait()
	for _, x := range parts {
		c.Captions, c.Cut = c.Captions+x.Captions, c.Cut+x.Cut
		c.Examples = append(c.Examples, x.Examples[:min(len(x.Examples), mostCuts-len(c.Examples))]...)
		if x.Longest.Tokens > c.Longest.Tokens {
			c.Longest = x.Longest
		}
	}
	return c
}

// String says how many are cut.
func (c Cuts) String() string {
	return fmt.Sprintf("%d of %d captions have more than the %d tokens that the text encoders take (up to %d); what is beyond is not seen", c.Cut, c.Captions, c.Tokens, c.Longest.Tokens)
}
