package text

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	for raw, want := range map[string]string{
		"":                                    "",
		"cat":                                 "cat",
		"\xef\xbb\xbfcat face\r\nnoto\r\n":    "cat face\nnoto\n",
		"\xef\xbb\xbf":                        "",
		"mac\rlines":                          "mac\nlines",
		"\xff\xfec\x00a\x00t\x00\r\x00\n\x00": "cat\n",
		"\xfe\xff\x00c\x00\xe9":               "cé",
		"\xff\xfe\x3d\xd8\x00\xde":            "😀",
		"猫":                                   "猫",
	} {
		if got, err := Decode([]byte(raw)); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", raw, got, err, want)
		}
	}
	for raw, want := range map[string]string{
		"cat\x00face":                   "byte 3 is NUL",
		"c\x00a\x00t\x00":               "byte 1 is NUL (is it UTF-16",
		"caf\xe9":                       "byte 3 is 0xe9",
		"\xff\xfec":                     "odd number",
		"\xff\xfe\x3d\xd8":              "surrogate",
		"\xff\xfec\x00\x00\x00":         "NUL",
		"\xff\xfe\x00\x00c\x00\x00\x00": "UTF-32",
	} {
		if got, err := Decode([]byte(raw)); !errors.Is(err, ErrEncoding) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v, want %q", raw, got, err, want)
		}
	}
	path := filepath.Join(t.TempDir(), "a.txt")
	if err := os.WriteFile(path, []byte("\xe9"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "a.txt: not UTF-8 text") {
		t.Errorf("%v", err)
	}
}
