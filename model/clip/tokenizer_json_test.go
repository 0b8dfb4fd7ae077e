package clip

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oneFile writes a folder's vocabulary as transformers 5 saves it: tokenizer.json and tokenizer_config.json, and in the
// latter no added_tokens_decoder. Older versions write a merge as one string.
func oneFile(t testing.TB, folder string, merge func(left, right string) any) string {
	t.Helper()
	var vocab map[string]int32
	var config map[string]any
	read := func(name string, into any) {
		raw, err := os.ReadFile(filepath.Join(folder, name))
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read("vocab.json", &vocab)
	read("tokenizer_config.json", &config)
	raw, err := os.ReadFile(filepath.Join(folder, "merges.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var merges, added []any
	for _, line := range strings.Split(string(raw), "\n") {
		if left, right, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#version") {
			merges = append(merges, merge(left, right))
		}
	}
	for _, spec := range config["added_tokens_decoder"].(map[string]any) {
		added = append(added, spec)
	}
	delete(config, "added_tokens_decoder")
	dir := t.TempDir()
	for name, content := range map[string]any{"tokenizer_config.json": config, "tokenizer.json": map[string]any{
		"version": "1.0", "added_tokens": added, "model": map[string]any{"type": "BPE", "unk_token": endOfText,
			"continuing_subword_prefix": "", "end_of_word_suffix": endOfWord, "vocab": vocab, "merges": merges}}} {
		b, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, name, string(b))
	}
	return dir
}

func asList(left, right string) any { return []string{left, right} }

// What the folder of single files gives, which TestEncodeGolden compares with transformers, its tokenizer.json gives too.
func TestTokenizerFile(t *testing.T) {
	for _, folder := range []string{"tokenizer", "tokenizer_2"} {
		want := loadMini(t, folder)
		for name, merge := range map[string]func(string, string) any{"lists": asList, "strings": func(l, r string) any { return l + " " + r }} {
			got, err := LoadTokenizer(oneFile(t, filepath.Join(fixtures, folder), merge))
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{"", "bear, noto style", "it's a caf\u00e9! <|endoftext|> x!!", "北京 1st"} {
				a, _ := want.Encode(text)
				b, _ := got.Encode(text)
				if !slices.Equal(a, b) {
					t.Errorf("%s, merges as %s: %q\n got %v\nwant %v", folder, name, text, b, a)
				}
			}
		}
	}
}

func TestTokenizerFileErrors(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"not JSON":      {"{", "tokenizer.json"},
		"another model": {`{"model":{"type":"Unigram"}}`, `a "Unigram" model`},
		"another BPE":   {`{"model":{"type":"BPE","end_of_word_suffix":""}}`, "CLIP's is BPE"},
		"empty":         {`{"model":{"type":"BPE","end_of_word_suffix":"</w>"}}`, "vocabulary is empty"},
		"bad merge":     {`{"model":{"type":"BPE","end_of_word_suffix":"</w>","vocab":{"a":0},"merges":["a"]}}`, "not two tokens"},
		"strange merge": {`{"model":{"type":"BPE","end_of_word_suffix":"</w>","vocab":{"a":0},"merges":[["a","b"]]}}`, `merge 0: token "b" is not in the vocabulary`},
	} {
		dir := oneFile(t, filepath.Join(fixtures, "tokenizer"), asList)
		writeFile(t, dir, "tokenizer.json", c.content)
		if _, err := LoadTokenizer(dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
}

func FuzzTokenizerFile(f *testing.F) {
	f.Add(`{"added_tokens":[{"content":"a","normalized":true}],"model":{"type":"BPE","end_of_word_suffix":"</w>","vocab":{"a":0,"b</w>":1,"ab</w>":2},"merges":[["a","b</w>"]]}}`)
	f.Add(`{"model":{"type":"BPE","end_of_word_suffix":"</w>","vocab":{"a":9},"merges":["a a"]}}`)
	f.Fuzz(func(t *testing.T, content string) {
		dir := t.TempDir()
		writeFile(t, dir, "tokenizer.json", content)
		writeFile(t, dir, "tokenizer_config.json", `{"model_max_length":8,"bos_token":"a","eos_token":"a","unk_token":"a","pad_token":"a"}`)
		tok, err := LoadTokenizer(dir)
		if err != nil {
			return
		}
		if ids, _ := tok.Encode("ab a b"); len(ids) != 8 {
			t.Errorf("%d ids", len(ids))
		}
	})
}
