package configs

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"fewstep/internal/text"

	"go.yaml.in/yaml/v3"
)

// ReadStrict reads a YAML file of one document into v, whose fields have yaml tags. A key without a field is an error that names
// its line. An empty file leaves v as it is. Recipes are read by Load.
func ReadStrict(path string, v any) error {
	content, err := text.ReadFile(path)
	if err != nil {
		return err
	}
	if _, err := oneDocument(content); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	d := yaml.NewDecoder(strings.NewReader(content))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// oneDocument reads the YAML document that a file consists of and returns what it holds: nil where that is nothing, an error
// where there are more documents.
func oneDocument(content string) (*yaml.Node, error) {
	var first, second yaml.Node
	d := yaml.NewDecoder(strings.NewReader(content))
	if err := d.Decode(&first); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := d.Decode(&second); err == nil {
		return nil, fmt.Errorf("line %d: a second YAML document begins here, after a line ---, and nothing would read it: write one a file", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(first.Content) == 0 {
		return nil, nil
	}
	return first.Content[0], nil
}
