package train_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/internal/xla"
	"fewstep/train"

	"github.com/parquet-go/parquet-go"
)

// What a trace says an update was made of is what it was made of: another picture there changes the update, and another one
// elsewhere does not. Two people with the same data, in two places, write the same manifest.
func TestTrace(t *testing.T) {
	recipe, source := with(t, tiny(t), bothForms), manySizes(t, 30)
	for i := 6; i < 30; i += 7 { // longer than the text encoders take
		if err := os.WriteFile(filepath.Join(source, fmt.Sprintf("%03d.txt", i)), []byte("picture 6"+strings.Repeat(" of a house", 100)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	set := func(source string) []string { return append([]string{"data.source=" + source}, bucketed...) }
	dir := filepath.Join(t.TempDir(), "run")
	walk(t, xla.Go, recipe, dir, "8", xla.Options{}, nil, set(source)...)
	open := func(dir string) *train.Trace {
		t.Helper()
		x, err := train.OpenTrace(t.Context(), dir, filepath.Join(filepath.Dir(recipe), "tinymodel"), "", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	x := open(dir)
	drawn, dropped := map[string]int64{}, 0
	var ofFirst []string
	for _, phase := range []string{"lora-cond", "lora-uncond"} {
		for n := int64(1); n <= 4; n++ {
			first, end, err := x.Update("8", phase, n)
			if err != nil || end-first != 4 {
				t.Fatal(first, end, err)
			}
			for k := first; k < end; k++ {
				s, err := x.Sample(k)
				if err != nil || s.Phase != phase || s.Update != n || s.Sample != k {
					t.Fatalf("%+v, %v", s, err)
				}
				content, err := os.ReadFile(s.Shard)
				if sum := sha256.Sum256(content); err != nil || hex.EncodeToString(sum[:]) != s.SHA256 || !strings.HasSuffix(s.Shard, s.Key+".png") {
					t.Errorf("%+v, %v", s, err)
				}
				if n == 1 && phase == "lora-cond" {
					ofFirst = append(ofFirst, s.Key)
				}
				if long := strings.HasPrefix(s.Caption, "picture 6"); long != (s.Unseen != "") || long != (s.Tokens > 300) || !strings.HasSuffix(s.Caption, s.Unseen) {
					t.Errorf("of %q, %d tokens, %q is unseen", s.Caption, s.Tokens, s.Unseen)
				}
				if s.Dropped {
					dropped++
				}
				drawn[s.Key]++
			}
		}
	}
	if dropped == 0 || dropped == 32 {
		t.Errorf("%d of 32 samples without text at a probability of 0.3", dropped)
	}
	for _, bad := range [][2]string{{"8", "merge"}, {"4", "lora-cond"}} {
		if _, _, err := x.Update(bad[0], bad[1], 1); err == nil {
			t.Errorf("%v has an update", bad)
		}
	}
	if _, _, err := x.Update("8", "lora-cond", 5); err == nil || !strings.Contains(err.Error(), "its last is 4") {
		t.Error(err)
	}
	if _, err := x.Sample(32); err == nil || !strings.Contains(err.Error(), "ended at 32") {
		t.Error(err)
	}
	manifest := filepath.Join(t.TempDir(), "a.parquet")
	if n, err := x.Manifest(t.Context(), manifest); err != nil || n != len(drawn) {
		t.Fatal(n, err)
	}
	rows, err := parquet.ReadFile[train.Listed](manifest)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]int64{}
	for _, r := range rows {
		listed[r.Key] = r.Draws
	}
	if !maps.Equal(listed, drawn) {
		t.Errorf("%v, want %v", listed, drawn)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}

	elsewhere := t.TempDir()
	if err := os.CopyFS(elsewhere, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "run")
	walk(t, xla.Go, recipe, again, "8", xla.Options{}, nil, set(elsewhere)...)
	y := open(again)
	defer y.Close()
	other := filepath.Join(t.TempDir(), "b.parquet")
	if _, err := y.Manifest(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(other); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the manifest of the same data elsewhere differs: %v", err)
	}

	// Another picture of the same size in the place of one of the first update's, and in the place of one that is not.
	want := values(t, dir)[0]
	stranger := slices.IndexFunc(rows, func(r train.Listed) bool { return !slices.Contains(ofFirst, r.Key) })
	for key, changes := range map[string]bool{ofFirst[0]: true, rows[stranger].Key: false} {
		changed := t.TempDir()
		if err := os.CopyFS(changed, os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
		invert(t, filepath.Join(changed, key+".png"))
		dir := filepath.Join(t.TempDir(), "run")
		walk(t, xla.Go, recipe, dir, "8", xla.Options{}, nil, set(changed)...)
		if got := values(t, dir)[0]; maps.Equal(got, want) == changes {
			t.Errorf("another picture for %s, with %v of the first update: %v, before %v", key, ofFirst, got, want)
		}
	}
	// The data of a finished run have changed: its samples are not told any more.
	invert(t, filepath.Join(elsewhere, ofFirst[0]+".png"))
	if _, err := train.OpenTrace(t.Context(), again, filepath.Join(filepath.Dir(recipe), "tinymodel"), "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Error(err)
	}
}
