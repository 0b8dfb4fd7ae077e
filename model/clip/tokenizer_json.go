package clip

import (
	"encoding/json"
	"fmt"
	"strings"
)

// tokenizerFile is tokenizer.json, the one file in which newer versions of transformers save what vocab.json, merges.txt
// and the special tokens' rules were.
type tokenizerFile struct {
	Added []tokenSpec `json:"added_tokens"`
	Model struct {
		Type   string           `json:"type"`
		Suffix string           `json:"end_of_word_suffix"`
		Prefix string           `json:"continuing_subword_prefix"`
		Vocab  map[string]int32 `json:"vocab"`
		Merges []mergePair      `json:"merges"`
	} `json:"model"`
}

// mergePair is spelt as a list of two tokens, or in older files as one string with a blank between them.
type mergePair struct{ pair }

func (m *mergePair) UnmarshalJSON(raw []byte) error {
	var parts []string
	if json.Unmarshal(raw, &parts) != nil {
		var line string
		if err := json.Unmarshal(raw, &line); err != nil {
			return err
		}
		parts = strings.Split(line, " ")
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return fmt.Errorf("the merge %s is not two tokens", raw)
	}
	m.pair = pair{parts[0], parts[1]}
	return nil
}

// readVocabulary takes vocabulary and merges from a file each.
func (t *Tokenizer) readVocabulary(files tokenizerFiles) error {
	if err := files.json("vocab.json", &t.ids); err != nil {
		return err
	}
	if err := t.indexTokens(); err != nil {
		return fmt.Errorf("tokenizer: %s: %w", files.path("vocab.json"), err)
	}
	return t.readMerges(files)
}

// readFile takes vocabulary, merges and the special tokens' rules from a tokenizer.json.
func (t *Tokenizer) readFile(files tokenizerFiles) ([]tokenSpec, error) {
	var f tokenizerFile
	path := files.path("tokenizer.json")
	if err := files.json("tokenizer.json", &f); err != nil {
		return nil, err
	}
	if f.Model.Type != "BPE" || f.Model.Suffix != endOfWord || f.Model.Prefix != "" {
		return nil, fmt.Errorf("tokenizer: %s: a %q model with the suffix %q and the prefix %q; CLIP's is BPE with %q and none",
			path, f.Model.Type, f.Model.Suffix, f.Model.Prefix, endOfWord)
	}
	t.ids = f.Model.Vocab
	if err := t.indexTokens(); err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	t.ranks = map[pair]int{}
	for i, m := range f.Model.Merges {
		if err := t.addMerge(m.pair); err != nil {
			return nil, fmt.Errorf("tokenizer: %s: merge %d: %w", path, i, err)
		}
	}
	return f.Added, nil
}
