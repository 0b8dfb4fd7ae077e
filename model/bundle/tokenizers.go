package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"fewstep/internal/text"
	"fewstep/model/clip"
	"fewstep/model/ldm"
)

// tokenizerOf is a text encoder's tokenizer folder.
var tokenizerOf = map[string]string{ldm.Text: "tokenizer", ldm.Text2: "tokenizer_2"}

// pad is the token that a text encoder's tokenizer pads with: OpenCLIP's "!" or CLIP's end of text.
func (b *Bundle) pad(component string) string {
	if b.form() == ldm.Form2 || component == ldm.Text2 {
		return "!"
	}
	return "<|endoftext|>"
}

// tokenizerFiles are the files of a tokenizer folder, not all of which each folder has.
var tokenizerFiles = []string{"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"}

// isTokenizer says whether a small file is part of a tokenizer.
func isTokenizer(name string) bool { return slices.Contains(tokenizerFiles, path.Base(name)) }

// hasTokenizer says whether files of a tokenizer folder are known.
func (b *Bundle) hasTokenizer(folder string) bool {
	return slices.ContainsFunc(tokenizerFiles, func(file string) bool { return b.files[path.Join(folder, file)] != nil })
}

// findTokenizer adds the tokenizer of a single file's text encoder: OpenAI's for its size of vocabulary, else the one
// beside the file.
func (b *Bundle) findTokenizer(component string) error {
	name := tokenizerOf[component]
	words, tokens, err := b.vocabulary(component)
	if err != nil {
		return err
	}
	if words == clip.StandardSize {
		for file, content := range clip.Standard().Files(tokens, b.pad(component)) {
			b.files[path.Join(name, file)] = content
		}
		return nil
	}
	if err := b.readTokenizer(filepath.Join(filepath.Dir(b.Path), name), name); err != nil {
		return fmt.Errorf("%s: its %s has %d words, not the %d of OpenAI's vocabulary, and the file holds no tokenizer: name the model's own with --config, or put its folders tokenizer and tokenizer_2 beside the file (%v)", b.Path, component, words, clip.StandardSize, err)
	}
	return nil
}

// vocabulary is the number of words, and of tokens in a text, of a text encoder.
func (b *Bundle) vocabulary(component string) (words, tokens int, err error) {
	var size struct {
		Words  int `json:"vocab_size"`
		Tokens int `json:"max_position_embeddings"`
	}
	config, err := b.File(component + "/config.json")
	if err == nil {
		err = text.JSON(config, &size)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("%s: its %s/config.json: %w", b.Path, component, err)
	}
	return size.Words, size.Tokens, nil
}

// HasTokenizers says whether the tokenizers are known without a folder that the user names.
func (b *Bundle) HasTokenizers() bool {
	for _, component := range b.Kind().Text {
		if words, _, err := b.vocabulary(component); err == nil && words == clip.StandardSize && b.files != nil {
			continue
		}
		if _, err := b.Tokenizer(component); err != nil {
			return false
		}
	}
	return true
}

func (b *Bundle) readTokenizer(folder, name string) error {
	for _, file := range tokenizerFiles {
		content, err := os.ReadFile(filepath.Join(folder, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		b.files[path.Join(name, file)] = content
	}
	if !b.hasTokenizer(name) {
		return fmt.Errorf("no tokenizer in %s: %w", folder, fs.ErrNotExist)
	}
	return nil
}

// Tokenizer loads the tokenizer of a text encoder.
func (b *Bundle) Tokenizer(component string) (*clip.Tokenizer, error) {
	name := tokenizerOf[component]
	return clip.ParseTokenizer(filepath.Join(b.Path, name), func(file string) ([]byte, error) {
		return b.File(path.Join(name, file))
	})
}
