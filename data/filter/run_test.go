package filter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/data/images"
	"fewstep/data/source"
)

// folder holds 20 images of side 10 to 29 with a score, and one that is no image.
func folder(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		m := images.New(10+i, 10+i)
		for k := range m.Pix {
			m.Pix[k] = uint8(k * i)
		}
		var b bytes.Buffer
		if err := png.Encode(&b, m.Image()); err != nil {
			t.Fatal(err)
		}
		write(fmt.Sprintf("%02d.png", i), b.Bytes())
		columns := fmt.Sprintf(`{"caption":"picture %d","AESTHETIC_SCORE":%d,"license":"CC0-1.0"}`, i, i)
		if i == 7 {
			columns = `{"caption":"without a score"}`
		}
		write(fmt.Sprintf("%02d.json", i), []byte(columns))
	}
	write("99.png", []byte("no picture"))
	write("99.json", []byte(`{"caption":"broken","AESTHETIC_SCORE":9}`))
	return dir
}

func TestRun(t *testing.T) {
	dir := folder(t)
	f, err := source.Open(context.Background(), dir, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var filters []*Filter
	texts := []string{"aesthetic >= 5", "width >= 20", "key != '12'"}
	for _, text := range texts {
		x, err := Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		filters = append(filters, x)
	}
	var kept []source.Selected
	out, err := Run(context.Background(), f, filters, Settings{Side: 16, Hash: true}, func(row source.Selected) error {
		kept = append(kept, row)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"aesthetic >= 5: 21 rows, removed 5, lacking 1, broken 0", "width >= 20: 15 rows, removed 4, lacking 0, broken 1", "key != '12': 10 rows, removed 1, lacking 0, broken 0"}
	for i, o := range out {
		if got := fmt.Sprintf("%s: %d rows, removed %d, lacking %d, broken %d", o.Filter, o.Rows, o.Removed, o.Lacking, o.Broken); got != want[i] {
			t.Errorf("%s, want %s", got, want[i])
		}
	}
	if !slices.Contains(out[0].Examples, "00 (aesthetic 0)") || !slices.Contains(out[1].Examples, "05 (width 15)") {
		t.Errorf("%q, %q", out[0].Examples, out[1].Examples)
	}
	if len(kept) != 9 || kept[0].Key != "10" || kept[0].License != "CC0-1.0" {
		t.Fatalf("%+v", kept)
	}
	content, err := os.ReadFile(kept[0].Shard)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(content); kept[0].SHA256 != hex.EncodeToString(sum[:]) {
		t.Error(kept[0])
	}
	// The choice is a source of its own, until its source changes.
	path := filepath.Join(t.TempDir(), "kept.parquet")
	i := 0
	if err := source.WriteSelection(path, dir, f, texts, func() (source.Selected, error) {
		if i == len(kept) {
			return source.Selected{}, io.EOF
		}
		i++
		return kept[i-1], nil
	}); err != nil {
		t.Fatal(err)
	}
	chosen, err := source.Open(context.Background(), path, source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer chosen.Close()
	if chosen.Len() != 9 || chosen.Row(8).Key != "19" || chosen.State() == f.State() {
		t.Errorf("%d rows, the last %+v", chosen.Len(), chosen.Row(chosen.Len()-1))
	}
	if b, err := chosen.Encoded(0); err != nil || !bytes.Equal(b, content) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "03.json"), []byte(`{"caption":"another"}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Open(context.Background(), path, source.Options{}); err == nil || !strings.Contains(err.Error(), "has changed since the rows were chosen") {
		t.Error(err)
	}
}
