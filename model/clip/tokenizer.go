package clip

import (
	"bufio"
	"encoding/json"
	"errors"
	"fewstep/internal/text"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tokenizer turns text into CLIP's byte-pair-encoding ids exactly as
// transformers' CLIPTokenizer does from the same folder. It is safe for
// concurrent use.
type Tokenizer struct {
	// MaxLength is the length of every encoding, the folder's model_max_length.
	MaxLength int
	// BOS, EOS and Pad are the ids of the folder's special tokens. CLIP-L pads
	// with the end token, SDXL's second tokenizer with "!".
	BOS, EOS, Pad int32

	unknown int32
	repairs bool // captions are cleaned first, as open_clip's tokenizer does
	ids     map[string]int32
	ranks   map[pair]int
	special []specialToken
	tokens  []string // by id, "" in a hole of the vocabulary
}

type pair struct{ left, right string }

// specialToken is taken out of the text as a whole, before (or, where normalized
// is set, after) the text is normalised.
type specialToken struct {
	content    string
	id         int32
	normalized bool
	lstrip     bool
	rstrip     bool
}

// maxTokenizerLength bounds model_max_length, which some folders set to 1e30 to
// say "none".
const maxTokenizerLength = 1 << 16

// LoadTokenizer reads vocab.json and merges.txt, or tokenizer.json where they are
// missing, tokenizer_config.json and, where it is there, special_tokens_map.json
// from a diffusers tokenizer folder.
func LoadTokenizer(dir string) (*Tokenizer, error) {
	return ParseTokenizer(dir, func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })
}

// ParseTokenizer reads a tokenizer from its files, which read gives by name; an absent one is fs.ErrNotExist. dir is
// for messages.
func ParseTokenizer(dir string, read func(name string) ([]byte, error)) (*Tokenizer, error) {
	t := &Tokenizer{}
	files := tokenizerFiles{dir, read}
	var added []tokenSpec
	err := t.readVocabulary(files)
	if errors.Is(err, fs.ErrNotExist) {
		if a, missing := t.readFile(files); !errors.Is(missing, fs.ErrNotExist) {
			added, err = a, missing
		}
	}
	if err != nil {
		return nil, err
	}
	if err := t.readConfig(files, added); err != nil {
		return nil, err
	}
	return t, nil
}

// asOpenCLIP makes it open_clip's tokenizer: captions are repaired first, and no part of one is a special token.
func (t *Tokenizer) asOpenCLIP() { t.repairs, t.special = true, nil }

// tokenizerFiles are the files of a tokenizer folder.
type tokenizerFiles struct {
	dir  string
	read func(name string) ([]byte, error)
}

func (f tokenizerFiles) path(name string) string { return filepath.Join(f.dir, name) }

func (f tokenizerFiles) json(name string, into any) error {
	raw, err := f.read(name)
	if err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	if err := text.JSON(raw, into); err != nil {
		return fmt.Errorf("tokenizer: %s: %w", f.path(name), err)
	}
	return nil
}

// VocabSize returns one more than the highest id.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Token returns the vocabulary entry of an id, "" where there is none.
func (t *Tokenizer) Token(id int32) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// Encode returns MaxLength ids (begin token, text, end token, padding; the text
// is cut to fit) and the position of the first end token, where the text model
// pools.
func (t *Tokenizer) Encode(text string) (ids []int32, eos int) {
	ids = make([]int32, 0, t.MaxLength)
	ids = append(ids, t.BOS)
	body := t.encodeText(text)
	ids = append(ids, body[:min(len(body), t.MaxLength-2)]...)
	ids = append(ids, t.EOS)
	eos = slices.Index(ids, t.EOS)
	if t.BOS == t.EOS {
		eos = len(ids) - 1
	}
	for len(ids) < t.MaxLength {
		ids = append(ids, t.Pad)
	}
	return ids, eos
}

// Count is the number of tokens of a text with the begin and end tokens. Encode cuts a text of more than MaxLength.
func (t *Tokenizer) Count(text string) int { return 2 + len(t.encodeText(text)) }

func (t *Tokenizer) encodeText(text string) []int32 {
	if t.repairs {
		text = repairText(text)
	}
	var ids []int32
	t.splitSpecial(text, false, func(id int32, plain string) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		t.splitSpecial(normalizeText(plain), true, func(id int32, plain string) {
			if id >= 0 {
				ids = append(ids, id)
				return
			}
			for _, piece := range splitWords(plain) {
				ids = t.appendPiece(ids, piece)
			}
		})
	})
	return ids
}

// splitSpecial cuts text at its special tokens of one sort: leftmost first, then
// longest. It yields either an id or a stretch of plain text with id −1.
func (t *Tokenizer) splitSpecial(text string, normalized bool, yield func(id int32, plain string)) {
	start := 0
	for at := 0; at < len(text); {
		var found *specialToken
		for i, s := range t.special {
			if s.normalized == normalized && strings.HasPrefix(text[at:], s.content) && (found == nil || len(s.content) > len(found.content)) {
				found = &t.special[i]
			}
		}
		if found == nil {
			at++
			continue
		}
		plain := text[start:at]
		if found.lstrip {
			plain = strings.TrimRightFunc(plain, isSpace)
		}
		if plain != "" {
			yield(-1, plain)
		}
		yield(found.id, "")
		at += len(found.content)
		if found.rstrip {
			at = len(text) - len(strings.TrimLeftFunc(text[at:], isSpace))
		}
		start = at
	}
	if start < len(text) {
		yield(-1, text[start:])
	}
}

// appendPiece encodes one pre-token: its bytes as printable characters, the last
// one marked with "</w>", merged pair by pair, lowest rank and then leftmost
// first.
func (t *Tokenizer) appendPiece(ids []int32, piece string) []int32 {
	word := make([]string, 0, len(piece))
	for _, b := range []byte(piece) {
		word = append(word, string(byteRunes[b]))
	}
	word[len(word)-1] += endOfWord
	for len(word) > 1 {
		best, bestRank := -1, math.MaxInt
		for i := range len(word) - 1 {
			if rank, ok := t.ranks[pair{word[i], word[i+1]}]; ok && rank < bestRank {
				best, bestRank = i, rank
			}
		}
		if best < 0 {
			break
		}
		word[best] += word[best+1]
		word = slices.Delete(word, best+1, best+2)
	}
	for _, token := range word {
		id, ok := t.ids[token]
		if !ok {
			id = t.unknown
		}
		ids = append(ids, id)
	}
	return ids
}

func (t *Tokenizer) indexTokens() error {
	if len(t.ids) == 0 {
		return errors.New("vocabulary is empty")
	}
	for token, id := range t.ids {
		if id < 0 || int(id) >= 4*len(t.ids)+1024 {
			return fmt.Errorf("token %q has id %d in a vocabulary of %d", token, id, len(t.ids))
		}
		if int(id) >= len(t.tokens) {
			t.tokens = append(t.tokens, make([]string, int(id)+1-len(t.tokens))...)
		}
		if other := t.tokens[id]; other != "" {
			return fmt.Errorf("tokens %q and %q share id %d", min(token, other), max(token, other), id)
		}
		t.tokens[id] = token
	}
	return nil
}

// readMerges reads one merge per line, best first. Every part and every result
// must be in the vocabulary.
func (t *Tokenizer) readMerges(files tokenizerFiles) error {
	path := files.path("merges.txt")
	raw, err := files.read("merges.txt")
	if err != nil {
		return fmt.Errorf("tokenizer: %w", err)
	}
	content, err := text.Decode(raw)
	if err != nil {
		return fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	t.ranks = map[pair]int{}
	lines := bufio.NewScanner(strings.NewReader(content))
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#version") {
			continue
		}
		left, right, ok := strings.Cut(line, " ")
		if !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return fmt.Errorf("tokenizer: %s: line %d: %q is not two tokens", path, number, line)
		}
		if err := t.addMerge(pair{left, right}); err != nil {
			return fmt.Errorf("tokenizer: %s: line %d: %w; the two files do not belong together", path, number, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	return nil
}

func (t *Tokenizer) addMerge(m pair) error {
	for _, token := range []string{m.left, m.right, m.left + m.right} {
		if _, ok := t.ids[token]; !ok {
			return fmt.Errorf("token %q is not in the vocabulary", token)
		}
	}
	if _, seen := t.ranks[m]; !seen {
		t.ranks[m] = len(t.ranks)
	}
	return nil
}

// tokenSpec is a special token as the JSON files spell it: a string, or an
// object with its matching rules.
type tokenSpec struct {
	Content    string `json:"content"`
	Normalized bool   `json:"normalized"`
	Lstrip     bool   `json:"lstrip"`
	Rstrip     bool   `json:"rstrip"`
}

func (s *tokenSpec) UnmarshalJSON(raw []byte) error {
	if err := json.Unmarshal(raw, &s.Content); err == nil {
		return nil
	}
	type plain tokenSpec
	return json.Unmarshal(raw, (*plain)(s))
}

type specialTokens struct {
	BOS     *tokenSpec `json:"bos_token"`
	EOS     *tokenSpec `json:"eos_token"`
	Unknown *tokenSpec `json:"unk_token"`
	Pad     *tokenSpec `json:"pad_token"`
}

// readConfig reads the special tokens; added are rules that stand in another file.
func (t *Tokenizer) readConfig(files tokenizerFiles, added []tokenSpec) error {
	path := files.path("tokenizer_config.json")
	var config struct {
		specialTokens
		MaxLength *float64             `json:"model_max_length"`
		Added     map[string]tokenSpec `json:"added_tokens_decoder"`
	}
	if err := files.json("tokenizer_config.json", &config); err != nil {
		return err
	}
	var inMap specialTokens
	err := files.json("special_tokens_map.json", &inMap)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if config.MaxLength == nil || !(*config.MaxLength >= 3 && *config.MaxLength <= maxTokenizerLength) || *config.MaxLength != math.Trunc(*config.MaxLength) {
		return fmt.Errorf("tokenizer: %s: model_max_length is missing or no whole number from 3 to %d", path, maxTokenizerLength)
	}
	t.MaxLength = int(*config.MaxLength)
	end := &tokenSpec{Content: endOfText}
	for _, s := range []struct {
		key         string
		first, next *tokenSpec
		otherwise   *tokenSpec
		id          *int32
	}{
		{"bos_token", config.BOS, inMap.BOS, &tokenSpec{Content: startOfText}, &t.BOS},
		{"eos_token", config.EOS, inMap.EOS, end, &t.EOS},
		{"unk_token", config.Unknown, inMap.Unknown, end, &t.unknown},
		{"pad_token", config.Pad, inMap.Pad, end, &t.Pad},
	} {
		spec := s.otherwise
		switch {
		case s.first != nil:
			spec = s.first
		case s.next != nil:
			spec = s.next
		}
		id, ok := t.ids[spec.Content]
		if !ok || spec.Content == "" {
			return fmt.Errorf("tokenizer: %s: %s %q is not in the vocabulary", path, s.key, spec.Content)
		}
		*s.id = id
		t.addSpecial(*spec, id)
	}
	for _, spec := range append(slices.Collect(maps.Values(config.Added)), added...) {
		if id, ok := t.ids[spec.Content]; ok && spec.Content != "" {
			t.setSpecial(spec, id)
		}
	}
	return nil
}

// addSpecial registers a special token unless the same text is registered.
func (t *Tokenizer) addSpecial(spec tokenSpec, id int32) {
	if !slices.ContainsFunc(t.special, func(s specialToken) bool { return s.id == id }) {
		t.setSpecial(spec, id)
	}
}

// setSpecial registers a special token in place of an earlier one of the same id.
func (t *Tokenizer) setSpecial(spec tokenSpec, id int32) {
	t.special = slices.DeleteFunc(t.special, func(s specialToken) bool { return s.id == id })
	token := specialToken{spec.Content, id, spec.Normalized, spec.Lstrip, spec.Rstrip}
	if token.normalized {
		token.content = normalizeText(token.content)
	}
	t.special = append(t.special, token)
}
