// Package text reads text that people wrote with any editor: captions, prompts, JSON and recipes.
package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrEncoding is what every error about a text's encoding wraps.
var ErrEncoding = errors.New("not UTF-8 text")

// Decode returns text as UTF-8 without a byte order mark and with \n as line ends. UTF-16 is decoded where a byte order mark
// says that it is. Bytes that are no UTF-8 (as Latin-1) and NUL characters (as UTF-16 without a mark has) are errors that
// wrap ErrEncoding.
func Decode(raw []byte) (string, error) {
	switch {
	case bytes.HasPrefix(raw, []byte("\xef\xbb\xbf")):
		raw = raw[3:]
	case bytes.HasPrefix(raw, []byte("\xff\xfe\x00\x00")), bytes.HasPrefix(raw, []byte("\x00\x00\xfe\xff")):
		return "", fmt.Errorf("%w: it is UTF-32; save it as UTF-8", ErrEncoding)
	case bytes.HasPrefix(raw, []byte("\xff\xfe")):
		return decode16(raw[2:], func(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 })
	case bytes.HasPrefix(raw, []byte("\xfe\xff")):
		return decode16(raw[2:], func(b []byte) uint16 { return uint16(b[1]) | uint16(b[0])<<8 })
	}
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		return "", fmt.Errorf("%w: byte %d is NUL (is it UTF-16 without a byte order mark?); save it as UTF-8", ErrEncoding, i)
	}
	if !utf8.Valid(raw) {
		for i := 0; i < len(raw); {
			r, n := utf8.DecodeRune(raw[i:])
			if r == utf8.RuneError && n == 1 {
				return "", fmt.Errorf("%w: byte %d is %#02x (is it Latin-1 or another code page?); save it as UTF-8", ErrEncoding, i, raw[i])
			}
			i += n
		}
	}
	return lines(string(raw)), nil
}

func decode16(raw []byte, unit func(b []byte) uint16) (string, error) {
	if len(raw)%2 == 1 {
		return "", fmt.Errorf("%w: UTF-16 of an odd number of bytes: the file is cut", ErrEncoding)
	}
	units := make([]uint16, len(raw)/2)
	for i := range units {
		units[i] = unit(raw[2*i:])
	}
	s := string(utf16.Decode(units))
	if strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("%w: UTF-16 with a NUL character; save it as UTF-8", ErrEncoding)
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		return "", fmt.Errorf("%w: UTF-16 with half a surrogate pair; save it as UTF-8", ErrEncoding)
	}
	return lines(s), nil
}

func lines(s string) string {
	if !strings.Contains(s, "\r") {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

// ReadFile reads a text file. Errors name it.
func ReadFile(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s, err := Decode(raw)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// JSON reads a JSON file's content over v, as Decode reads text.
func JSON(raw []byte, v any) error {
	s, err := Decode(raw)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(s), v)
}

// StrictJSON is JSON in which keys that v has no field for, and anything after the value, are errors.
func StrictJSON(raw []byte, v any) error {
	s, err := Decode(raw)
	if err != nil {
		return err
	}
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more follows after the end of the JSON value")
	}
	return nil
}
