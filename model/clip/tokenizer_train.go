package clip

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/internal/atomicfile"
)

// Vocabulary is a trained byte-pair encoding in CLIP's layout: 256 bytes, the
// 256 bytes that end a word, one token per merge, then the begin and end tokens.
type Vocabulary struct {
	Tokens []string    // by id
	Merges [][2]string // best first
}

// minVocabSize holds the bytes in both forms and the two special tokens.
const minVocabSize = 2*256 + 2

// TrainBPE learns a vocabulary of at most size tokens from captions: it merges
// the most frequent pair of neighbouring tokens, ties by text order, until the
// vocabulary is full or no pair occurs twice. Words that stand in a few captions
// become one token. The result depends on the captions and the size alone.
func TrainBPE(captions []string, size int) (*Vocabulary, error) {
	if size < minVocabSize {
		return nil, fmt.Errorf("tokenizer: vocabulary of %d; want at least %d", size, minVocabSize)
	}
	counts := map[string]int{}
	for _, c := range captions {
		for _, w := range splitWords(normalizeText(c)) {
			counts[w]++
		}
	}
	if len(counts) == 0 {
		return nil, errors.New("tokenizer: no words in the captions to train on")
	}
	type word struct {
		symbols []string
		count   int
	}
	var words []word
	for _, text := range slices.Sorted(maps.Keys(counts)) {
		w := word{count: counts[text]}
		for _, b := range []byte(text) {
			w.symbols = append(w.symbols, string(byteRunes[b]))
		}
		w.symbols[len(w.symbols)-1] += endOfWord
		words = append(words, w)
	}
	v := &Vocabulary{Tokens: byteTokens()}
	known := map[string]bool{}
	for _, t := range v.Tokens {
		known[t] = true
	}
	for len(v.Tokens) < size-2 {
		frequency := map[pair]int{}
		for _, w := range words {
			for i := range len(w.symbols) - 1 {
				frequency[pair{w.symbols[i], w.symbols[i+1]}] += w.count
			}
		}
		var best pair
		for p, n := range frequency {
			if c := cmp.Compare(n, frequency[best]); c > 0 || c == 0 && comparePairs(p, best) < 0 {
				best = p
			}
		}
		if frequency[best] < 2 {
			break
		}
		merged := best.left + best.right
		v.Merges = append(v.Merges, [2]string{best.left, best.right})
		if !known[merged] {
			v.Tokens = append(v.Tokens, merged)
			known[merged] = true
		}
		for i := range words {
			s := words[i].symbols
			for at := 0; at+1 < len(s); at++ {
				if s[at] == best.left && s[at+1] == best.right {
					s[at] = merged
					s = slices.Delete(s, at+1, at+2)
				}
			}
			words[i].symbols = s
		}
	}
	v.Tokens = append(v.Tokens, startOfText, endOfText)
	return v, nil
}

func comparePairs(a, b pair) int {
	return cmp.Or(strings.Compare(a.left, b.left), strings.Compare(a.right, b.right))
}

// byteTokens returns CLIP's first 512 tokens: the printable bytes in order, then
// the others, each plain and then each as the end of a word.
func byteTokens() []string {
	tokens := make([]string, 0, 512)
	for _, printable := range []bool{true, false} {
		for b := range 256 {
			if isPrintableByte(b) == printable {
				tokens = append(tokens, string(byteRunes[b]))
			}
		}
	}
	for _, t := range tokens[:256] {
		tokens = append(tokens, t+endOfWord)
	}
	return tokens
}

// Write makes dir a tokenizer folder as diffusers and transformers load it.
// maxLength is the length of encodings; pad is the padding token, endoftext for
// SDXL's first text encoder and "!" for its second.
func (v *Vocabulary) Write(dir string, maxLength int, pad string) error {
	if !slices.Contains(v.Tokens, pad) {
		return fmt.Errorf("tokenizer: padding token %q is not in the vocabulary", pad)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	for name, content := range v.Files(maxLength, pad) {
		if err := atomicfile.WriteBytes(filepath.Join(dir, name), content); err != nil {
			return fmt.Errorf("tokenizer: %w", err)
		}
	}
	return nil
}

// Files are the files of such a folder by name; pad must be in the vocabulary.
func (v *Vocabulary) Files(maxLength int, pad string) map[string][]byte {
	special := func(content string) map[string]any {
		return map[string]any{"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false}
	}
	added := map[string]any{}
	for _, content := range []string{startOfText, endOfText, pad} {
		token := special(content)
		token["special"] = true
		added[fmt.Sprint(slices.Index(v.Tokens, content))] = token
	}
	config := map[string]any{
		"add_prefix_space": false, "added_tokens_decoder": added,
		"bos_token": startOfText, "eos_token": endOfText, "unk_token": endOfText, "pad_token": pad,
		"clean_up_tokenization_spaces": true, "do_lower_case": true, "errors": "replace",
		"model_max_length": maxLength, "tokenizer_class": "CLIPTokenizer",
	}
	tokens := map[string]any{
		"bos_token": special(startOfText), "eos_token": special(endOfText),
		"unk_token": special(endOfText), "pad_token": pad,
	}
	merges := bytes.NewBufferString("#version: 0.2\n")
	for _, m := range v.Merges {
		fmt.Fprintf(merges, "%s %s\n", m[0], m[1])
	}
	return map[string][]byte{
		"vocab.json":              v.json(),
		"merges.txt":              merges.Bytes(),
		"tokenizer_config.json":   indentedJSON(config),
		"special_tokens_map.json": indentedJSON(tokens),
	}
}

// json writes the vocabulary in the order of its ids.
func (v *Vocabulary) json() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for id, token := range v.Tokens {
		if id > 0 {
			b.WriteByte(',')
		}
		b.Write(bytes.TrimSpace(encodeJSON(token, "")))
		fmt.Fprintf(&b, ":%d", id)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

func indentedJSON(value any) []byte { return encodeJSON(value, "  ") }

// encodeJSON leaves "<" and ">" as they are; it cannot fail on strings, numbers,
// booleans and maps of them.
func encodeJSON(value any, indent string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(value); err != nil {
		return nil
	}
	return b.Bytes()
}
