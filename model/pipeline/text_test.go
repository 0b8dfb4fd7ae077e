package pipeline_test

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"

	"fewstep/model/clip"
	"fewstep/model/pipeline"
)

// Every text file of a model is read as any editor saves it: with a byte order mark, as UTF-16, with other line ends. Latin-1 is
// refused with the file's name.
func TestTextOfAnyEditor(t *testing.T) {
	dir := tiny(t)
	want, err := pipeline.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	wide := func(order binary.AppendByteOrder) func([]byte) []byte {
		return func(b []byte) []byte {
			out := order.AppendUint16(nil, 0xfeff)
			for _, unit := range utf16.Encode([]rune(string(b))) {
				out = order.AppendUint16(out, unit)
			}
			return out
		}
	}
	for name, spell := range map[string]func([]byte) []byte{
		"byte order mark": func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) },
		"UTF-16":          wide(binary.LittleEndian),
		"UTF-16 BE":       wide(binary.BigEndian),
		"line ends":       func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) },
		"Latin-1":         func(b []byte) []byte { return append(bytes.Clone(b), 0xe9) },
	} {
		other, files := tiny(t), 0
		err := filepath.WalkDir(other, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".json" && filepath.Ext(path) != ".txt" {
				return err
			}
			files++
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, spell(raw), 0o666)
		})
		if err != nil || files < 10 {
			t.Fatal(files, err)
		}
		got, err := pipeline.Open(other)
		vision, verr := clip.OpenModel(filepath.Join(other, "clip"), filepath.Join(other, "tokenizer_2"))
		if name == "Latin-1" {
			if err == nil || verr == nil || !strings.Contains(err.Error(), ".json: not UTF-8 text") || !strings.Contains(verr.Error(), "config.json: not UTF-8 text") {
				t.Errorf("%s: %v, %v", name, err, verr)
			}
			continue
		}
		if err != nil || verr != nil {
			t.Errorf("%s: %v, %v", name, err, verr)
			continue
		}
		if !reflect.DeepEqual(got.UNet, want.UNet) || !reflect.DeepEqual(got.VAE, want.VAE) || got.ZeroEmpty != want.ZeroEmpty || got.Prediction != want.Prediction || vision.Vision == nil {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		for i := range want.Tokenizer {
			a, _ := want.Tokenizer[i].Encode("a red disc, above")
			b, _ := got.Tokenizer[i].Encode("a red disc, above")
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s: tokens %v, want %v", name, b, a)
			}
		}
	}
}
