package clip

import (
	"fmt"
	"io/fs"
	"slices"
	"testing"
)

// The ids are those of OpenAI's SimpleTokenizer (as in open_clip 3.3.0).
func TestStandardVocabulary(t *testing.T) {
	v := Standard()
	if len(v.Tokens) != StandardSize {
		t.Fatalf("%d tokens", len(v.Tokens))
	}
	for pad, want := range map[string]int32{"<|endoftext|>": 49407, "!": 0} {
		files := v.Files(StandardLength, pad)
		tok, err := ParseTokenizer("standard", func(name string) ([]byte, error) {
			if content, ok := files[name]; ok {
				return content, nil
			}
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		})
		if err != nil {
			t.Fatal(err)
		}
		ids, eos := tok.Encode("a photo of a cat")
		if !slices.Equal(ids[:8], []int32{49406, 320, 1125, 539, 320, 2368, 49407, want}) || eos != 6 || len(ids) != 77 {
			t.Errorf("pad %q: %v", pad, ids)
		}
	}
}
