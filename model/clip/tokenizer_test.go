package clip

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// fixtures holds the two tokenizers of 2,048 entries that the golden values were made with.
const fixtures = "testdata"

func loadMini(t testing.TB, folder string) *Tokenizer {
	t.Helper()
	tok, err := LoadTokenizer(filepath.Join(fixtures, folder))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestEncodeGolden compares with transformers' CLIPTokenizer; see
// testdata/tokenizer_golden.py.
func TestEncodeGolden(t *testing.T) {
	raw, err := os.ReadFile("testdata/tokenizer_golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Texts   []string                        `json:"texts"`
		IDs     map[string]map[string][][]int32 `json:"ids"` // folder, length, text
		Config  json.RawMessage                 `json:"sdxl_config"`
		Special json.RawMessage                 `json:"sdxl_special"`
	}
	if err := json.Unmarshal(raw, &golden); err != nil {
		t.Fatal(err)
	}
	sdxl := t.TempDir()
	for _, name := range []string{"vocab.json", "merges.txt"} {
		content, err := os.ReadFile(filepath.Join(fixtures, "tokenizer_2", name))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, sdxl, name, string(content))
	}
	writeFile(t, sdxl, "tokenizer_config.json", string(golden.Config))
	writeFile(t, sdxl, "special_tokens_map.json", string(golden.Special))
	folders := map[string]string{
		"tokenizer":   filepath.Join(fixtures, "tokenizer"),
		"tokenizer_2": filepath.Join(fixtures, "tokenizer_2"),
		"sdxl_layout": sdxl,
	}
	for name, folder := range folders {
		tok, err := LoadTokenizer(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, tok.MaxLength = range []int{16, 96} {
			want := golden.IDs[name][strconv.Itoa(tok.MaxLength)]
			if len(golden.Texts) < 60 || len(want) != len(golden.Texts) {
				t.Fatalf("%s: %d texts, %d encodings", name, len(golden.Texts), len(want))
			}
			for i, text := range golden.Texts {
				for len(want[i]) < tok.MaxLength { // the file leaves padding out
					want[i] = append(want[i], tok.Pad)
				}
				ids, eos := tok.Encode(text)
				if !slices.Equal(ids, want[i]) {
					t.Errorf("%s, length %d: %q\n got %v\nwant %v", name, tok.MaxLength, text, ids, want[i])
				}
				if first := slices.Index(want[i], tok.EOS); eos != first {
					t.Errorf("%s: %q: end at %d, want %d", name, text, eos, first)
				}
			}
		}
	}
}

func TestPadTokens(t *testing.T) {
	first, second := loadMini(t, "tokenizer"), loadMini(t, "tokenizer_2")
	if first.Pad != first.EOS || second.Pad != 0 || second.Token(0) != "!" {
		t.Errorf("pads %d and %d, want end token %d and 0", first.Pad, second.Pad, first.EOS)
	}
	if first.MaxLength != 32 || first.VocabSize() != 2048 {
		t.Errorf("length %d, vocabulary %d", first.MaxLength, first.VocabSize())
	}
}

func TestCount(t *testing.T) {
	tok := loadMini(t, "tokenizer")
	for _, text := range []string{"", "bear", "bear, noto style", "it's a caf\u00e9!"} {
		if _, eos := tok.Encode(text); tok.Count(text) != eos+1 {
			t.Errorf("%q: %d tokens, and the end is at %d", text, tok.Count(text), eos)
		}
	}
	if n := tok.Count(strings.Repeat("bear ", 40)); n != 42 {
		t.Errorf("40 words are %d tokens, want 42", n)
	}
}

func TestCommonWordsAreOneToken(t *testing.T) {
	tok := loadMini(t, "tokenizer")
	for _, text := range []string{"bear", "animal", "style", "fluent", "noto", "heart", "grinning", "apple"} {
		if _, eos := tok.Encode(text); eos != 2 {
			t.Errorf("%q takes %d tokens", text, eos-1)
		}
	}
}

// TestSpecialTokenRules covers folders that spell special tokens as objects:
// a normalised one is found in any case.
func TestSpecialTokenRules(t *testing.T) {
	dir := writeTestTokenizer(t)
	writeFile(t, dir, "tokenizer_config.json", `{"model_max_length": 8}`)
	for _, c := range []struct {
		spec string
		want bool
	}{
		{`{"content":"<|endoftext|>","normalized":true}`, true},
		{`{"content":"<|endoftext|>","normalized":false}`, false},
		{`"<|endoftext|>"`, false},
	} {
		writeFile(t, dir, "special_tokens_map.json", `{"bos_token":"<|startoftext|>","eos_token":`+c.spec+`}`)
		tok, err := LoadTokenizer(dir)
		if err != nil {
			t.Fatal(err)
		}
		ids, _ := tok.Encode("<|EndOfText|>")
		if got := ids[1] == tok.EOS && ids[2] == tok.EOS && ids[3] == tok.EOS; got != c.want {
			t.Errorf("%s: ids %v", c.spec, ids)
		}
	}
}

func TestTrainBPE(t *testing.T) {
	captions := []string{"bear, noto style", "bear, fluent style", "polar bear, noto style"}
	a, err := TrainBPE(captions, 600)
	if err != nil {
		t.Fatal(err)
	}
	b, err := TrainBPE(captions, 600)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.Tokens, b.Tokens) || !slices.Equal(a.Merges, b.Merges) {
		t.Error("two trainings differ")
	}
	if a.Tokens[0] != "!" || a.Tokens[256] != "!</w>" || a.Tokens[len(a.Tokens)-1] != endOfText {
		t.Errorf("layout: %q %q %q", a.Tokens[0], a.Tokens[256], a.Tokens[len(a.Tokens)-1])
	}
	for _, word := range []string{"bear</w>", "style</w>", "noto</w>"} {
		if !slices.Contains(a.Tokens, word) {
			t.Errorf("%q is not a token", word)
		}
	}
	small, err := TrainBPE(captions, 520)
	if err != nil {
		t.Fatal(err)
	}
	if len(small.Tokens) != 520 || len(small.Merges) != 6 {
		t.Errorf("%d tokens, %d merges, want 520 and 6", len(small.Tokens), len(small.Merges))
	}
	if _, err := TrainBPE(captions, 100); err == nil {
		t.Error("100 entries accepted")
	}
	if _, err := TrainBPE(nil, 600); err == nil {
		t.Error("no captions accepted")
	}
	if err := a.Write(t.TempDir(), 16, "nowhere"); err == nil {
		t.Error("unknown padding token accepted")
	}
}

func TestLoadTokenizerErrors(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"vocabulary not JSON":  {"vocab.json", "{", "vocab.json"},
		"vocabulary empty":     {"vocab.json", "{}", "empty"},
		"vocabulary null":      {"vocab.json", "null", "empty"},
		"shared id":            {"vocab.json", `{"a":0,"b":0}`, "share id 0"},
		"negative id":          {"vocab.json", `{"a":-1}`, "has id -1"},
		"huge id":              {"vocab.json", `{"a":2000000000}`, "has id 2000000000"},
		"merge of one":         {"merges.txt", "#version: 0.2\nab\n", "line 2"},
		"merge of three":       {"merges.txt", "a b c\n", "not two tokens"},
		"merge unknown":        {"merges.txt", "q z\n", "do not belong together"},
		"no length":            {"tokenizer_config.json", `{}`, "model_max_length"},
		"length 2":             {"tokenizer_config.json", `{"model_max_length":2}`, "model_max_length"},
		"length 1e30":          {"tokenizer_config.json", `{"model_max_length":1e30}`, "model_max_length"},
		"pad token unknown":    {"tokenizer_config.json", `{"model_max_length":8,"pad_token":"<pad>"}`, `pad_token "<pad>" is not in the vocabulary`},
		"special map not JSON": {"special_tokens_map.json", "[", "special_tokens_map.json"},
	} {
		dir := writeTestTokenizer(t)
		writeFile(t, dir, c.file, c.content)
		if _, err := LoadTokenizer(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
	for _, file := range []string{"vocab.json", "merges.txt", "tokenizer_config.json"} {
		dir := writeTestTokenizer(t)
		if err := os.Remove(filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadTokenizer(dir); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("without %s: error %v", file, err)
		}
	}
}

func FuzzEncode(f *testing.F) {
	tok := loadMini(f, "tokenizer_2")
	for _, text := range []string{"", "red apple, noto style", "it's!", "<|endoftext|>", "\xff\xfe", "é\u0301 İ 北"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids, eos := tok.Encode(text)
		if len(ids) != tok.MaxLength || ids[0] != tok.BOS || eos < 1 || eos >= len(ids) || ids[eos] != tok.EOS {
			t.Fatalf("%q: %v, end %d", text, ids, eos)
		}
		for _, id := range ids {
			if tok.Token(id) == "" {
				t.Fatalf("%q: id %d has no token", text, id)
			}
		}
	})
}

func writeTestTokenizer(t *testing.T) string {
	t.Helper()
	v, err := TrainBPE([]string{"bear bear"}, 520)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := v.Write(dir, 8, endOfText); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func ExampleTokenizer_Encode() {
	tok, err := LoadTokenizer(filepath.Join(fixtures, "tokenizer"))
	if err != nil {
		panic(err)
	}
	ids, eos := tok.Encode("Bear, noto style")
	for _, id := range ids[:eos+1] {
		fmt.Print(tok.Token(id), " ")
	}
	// Output: <|startoftext|> bear</w> ,</w> noto</w> style</w> <|endoftext|>
}
