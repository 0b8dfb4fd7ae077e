package data

import (
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"
)

// What an Open found out spares the next one decoding and hashing, until something changes.
func TestSeen(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	good := string(testPNG(t, 2, 2, plain(red)))
	for _, name := range []string{"a", "b", "c"} {
		write(name+".png", good)
		write(name+".txt", "picture "+name)
	}
	write("b.png", "no picture")
	parquetFile := writeRecords(t, testRecords(t))
	shards := filepath.Dir(writeRecords(t, testRecords(t)))
	open := func(path string, opt Options) (*Set, int) {
		t.Helper()
		var checked atomic.Int64
		opt.MaxBad, opt.Checked = 1, func(done, total int) { checked.Add(1) }
		s, err := Open(t.Context(), path, opt)
		if err != nil {
			t.Fatal(err)
		}
		return s, int(checked.Load())
	}
	for _, path := range []string{dir, parquetFile, shards} {
		first, n := open(path, Options{})
		if n != 3 {
			t.Errorf("%d images were decoded", n)
		}
		seen, err := first.Seen()
		if err != nil {
			t.Fatal(err)
		}
		digest, _ := first.Digest()
		second, n := open(path, Options{Seen: seen})
		again, err := second.Seen()
		if n != 0 || err != nil || !reflect.DeepEqual(again, seen) || second.Len() != first.Len() {
			t.Errorf("%s: %d images were decoded again; %+v, then %+v, %v", path, n, seen, again, err)
		}
		if d, err := second.Digest(); err != nil || d != digest {
			t.Errorf("digest %s, then %s, %v", digest, d, err)
		}
		if a, err := second.Image(second.Len()-1, 2); err != nil || len(a) != 12 {
			t.Errorf("%d values, %v", len(a), err)
		}
		if part, err := second.Only(""); err == nil && part.digest != "" {
			t.Error("a part has the whole's digest")
		}
		broken := *seen
		broken.Bad = []SeenBad{{Row: 3}}
		for what, opt := range map[string]Options{"decoded images are wanted": {Seen: seen, CacheSize: 2}, "a row that is not there was bad": {Seen: &broken}, "nothing is known": {Seen: &Seen{}}} {
			if _, n := open(path, opt); n != 3 {
				t.Errorf("%s: %d images were decoded", what, n)
			}
		}
		old := time.Now().Add(-time.Hour)
		changed := path
		switch path {
		case dir:
			changed = filepath.Join(dir, "a.png")
		case shards:
			changed = filepath.Join(shards, "images.parquet")
		}
		if err := os.Chtimes(changed, old, old); err != nil {
			t.Fatal(err)
		}
		if _, n := open(path, Options{Seen: seen}); n != 3 {
			t.Errorf("after a file has changed, %d images were decoded", n)
		}
	}
	first, _ := open(dir, Options{})
	seen, err := first.Seen()
	if err != nil || len(seen.Bad) != 1 || seen.Bad[0].Row != 1 {
		t.Fatalf("%+v, %v", seen, err)
	}
	write("c.txt", "another caption")
	if _, n := open(dir, Options{Seen: seen}); n != 3 {
		t.Errorf("after a caption has changed, %d images were decoded", n)
	}
}
