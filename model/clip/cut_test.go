package clip

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// standard is SDXL's first tokenizer.
func standard(t *testing.T) *Tokenizer {
	t.Helper()
	tok, err := Standard().Tokenizer(StandardLength, endOfText)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// What is cut is what Encode does not tell, in any script, and what Encode keeps with what is cut is the whole.
func TestUnseen(t *testing.T) {
	tok := standard(t)
	words := make([]string, 74)
	for i := range words {
		words[i] = "cat"
	}
	base := strings.Join(words, " ")
	for text, want := range map[string]string{
		"": "", "a cat": "", base: "", base + " dog": "", base + " dog owl": "owl", base + " dog,  OWL!": ", owl!",
		base + " dog Üzüm 猫": "üzüm 猫", strings.Repeat("a", 75): "", strings.Repeat("é", 40): "",
	} {
		got := tok.Unseen(text)
		if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%q: %q is unseen, want %q", text, got, want)
		}
		if cut, is := CutOf([]*Tokenizer{tok}, text); is != (want != "") || is != (tok.Count(text) > StandardLength) || is && cut.Unseen != got {
			t.Errorf("%q: %+v, %v, of %d tokens", text, cut, is, tok.Count(text))
		}
	}
	text := "An old harbour at dawn, with 17 boats; ropes, nets & gulls. " + strings.Repeat("The light is thin and grey, the water still. ", 12)
	unseen := tok.Unseen(text)
	ids := tok.encodeText(text)
	if again := tok.encodeText(unseen); !slices.Equal(again, ids[StandardLength-2:]) {
		t.Errorf("%q is not the end of the caption", unseen)
	}
	if tok.Unseen(base+" dog "+strings.Repeat("\xff", 9)) == "" {
		t.Error("bytes that are no text are tokens, too")
	}
}

// Counts are of all captions, whatever order the cores take; examples are the first ones and the longest.
func TestCountCuts(t *testing.T) {
	tok := standard(t)
	const n = 1500
	second, err := Standard().Tokenizer(StandardLength, "!")
	if err != nil {
		t.Fatal(err)
	}
	if of := different([]*Tokenizer{tok, second, standard(t)}); len(of) != 1 {
		t.Errorf("%d tokenizers cut differently", len(of))
	}
	var told atomic.Int64
	c := CountCuts([]*Tokenizer{tok, second}, n, func(i int) (string, []string) {
		if i%10 != 3 {
			return fmt.Sprint(i), []string{"a short one"}
		}
		return fmt.Sprint(i), []string{"another", strings.Repeat("cat ", 80+i%7) + fmt.Sprintf("with %d boats", i)}
	}, func(done, total int) { told.Store(max(told.Load(), int64(done))) })
	if c.Captions != n+n/10 || told.Load() != n || c.Cut != n/10 || c.Tokens != 77 || len(c.Examples) != mostCuts {
		t.Fatalf("%+v", c)
	}
	if c.Examples[0].Key != "3" || c.Examples[2].Key != "23" || c.Longest.Key != "1063" || c.Longest.Tokens != tok.Count(strings.Repeat("cat ", 86)+"with 1063 boats") || !strings.HasSuffix(c.Examples[1].Unseen, "with 1 3 boats") {
		t.Errorf("%+v", c.Examples)
	}
	if none := CountCuts([]*Tokenizer{tok}, 2, func(int) (string, []string) { return "", []string{"short"} }, nil); none.Cut != 0 || none.Longest.Tokens != 0 || none.Examples != nil {
		t.Errorf("%+v", none)
	}
}

func BenchmarkCountCuts(b *testing.B) {
	tok, err := Standard().Tokenizer(StandardLength, endOfText)
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat("The light is thin and grey, the water of the harbour still. ", 12)
	for b.Loop() {
		CountCuts([]*Tokenizer{tok}, 256, func(int) (string, []string) { return "", []string{text} }, nil)
	}
}
