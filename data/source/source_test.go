package source

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/data/images"

	"github.com/parquet-go/parquet-go"
)

// picture is a PNG of one colour.
func picture(t testing.TB, c color.Color) string {
	t.Helper()
	m := image.NewNRGBA(image.Rect(0, 0, 2, 2))
	for i := range 4 {
		m.Set(i%2, i/2, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

// tarOf makes a tar of pairs of names and contents.
func tarOf(t testing.TB, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		h := &tar.Header{Name: members[i], Mode: 0o644, Size: int64(len(members[i+1])), Typeflag: tar.TypeReg}
		if strings.HasSuffix(members[i], "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, members[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func open(t testing.TB, address string, opt Options) *Files {
	t.Helper()
	f, err := Open(context.Background(), address, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// rows lists key=caption of every row, and checks that its image is there.
func rows(t testing.TB, f *Files) (out []string) {
	t.Helper()
	for i := range f.Len() {
		r := f.Row(i)
		out = append(out, r.Key+"="+strings.Join(append([]string{r.Caption}, r.Also...), "|"))
		content, err := f.Encoded(i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := images.Probe(content); err != nil {
			t.Errorf("%s: %v", r.Key, err)
		}
	}
	return out
}

func skips(f *Files) map[string]int {
	out := map[string]int{}
	for _, s := range f.Skipped() {
		out[s.Reason] = s.Count
	}
	return out
}

func TestTar(t *testing.T) {
	p := picture(t, color.White)
	shard := tarOf(t, "./", "", "./a.jpg", p, "./a.txt", "cat\r\n", "./a.json", `{"caption":"other","AESTHETIC_SCORE":6.5,"url":"u","exif":{"x":1}}`,
		"sub/v1.5.cat.png", p, "sub/v1.5.cat.caption", "dotted", // the key ends at the base name's first dot
		"b.json", `{"caption":["one","two"]}`, "b.mask.png", p, "b.JPG", p,
		"c.txt", "no image", "__worker__.json", "{}", "._d.jpg", "x",
		"e.png", p, "f.png", p, "f.txt", "caf\xe9", "g.png", p, "g.cls", "3", "g.txt", "last")
	dir := t.TempDir()
	write(t, dir, "00000.tar", shard)
	f := open(t, filepath.Join(dir, "00000.tar"), Options{})
	if got, want := rows(t, f), []string{"a=cat\n", "sub/v1=dotted", "b=one|two", "g=last"}; !slices.Equal(got, trimmed(want)) && !slices.Equal(trimmed(got), trimmed(want)) {
		t.Errorf("%q", got)
	}
	if c := f.Columns(0); c["AESTHETIC_SCORE"] != 6.5 || c["url"] != "u" || c["exif"] != nil {
		t.Errorf("%v", c)
	}
	var flaws []string
	for _, x := range f.Flaws() {
		flaws = append(flaws, x.Key+": "+x.Why)
	}
	if len(flaws) != 2 || !strings.Contains(flaws[0], "e: no caption") || !strings.Contains(flaws[1], "f: .txt: not UTF-8") {
		t.Errorf("%q", flaws)
	}
	want := map[string]int{"samples without an image": 1, "hidden entries": 2, "further images of a sample": 1, "fields of tars that are neither images nor captions (.cls)": 1}
	if got := skips(f); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if f.Shard(3) != filepath.Join(dir, "00000.tar") {
		t.Error(f.Shard(3))
	}
	// A tar that is cut keeps its whole samples.
	write(t, dir, "cut.tar", shard[:6000])
	if f := open(t, filepath.Join(dir, "cut.tar"), Options{}); f.Len() != 1 || len(f.Flaws()) != 1 || !strings.Contains(f.Flaws()[0].Why, "cut") {
		t.Errorf("%d rows, %v", f.Len(), f.Flaws())
	}
	write(t, dir, "no.tar", strings.Repeat("no tar ", 200))
	if _, err := Open(context.Background(), filepath.Join(dir, "no.tar"), Options{}); err == nil || !strings.Contains(err.Error(), "no.tar: not a readable tar file") {
		t.Error(err)
	}
}

func trimmed(list []string) []string {
	out := slices.Clone(list)
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

type fetched struct {
	Key     string  `parquet:"key"`
	Caption string  `parquet:"caption"`
	Status  string  `parquet:"status"`
	Why     string  `parquet:"error_message"`
	Score   float64 `parquet:"AESTHETIC_SCORE"`
}

// img2dataset's parquet holds the rows that failed too, and is joined by key.
func TestTarWithParquet(t *testing.T) {
	p, dir := picture(t, color.White), t.TempDir()
	for _, n := range []string{"00000", "00001"} {
		write(t, dir, n+".tar", tarOf(t, n+"0001.jpg", p, n+"0001.txt", "two", n+"0003.jpg", p))
		write(t, dir, n+"_stats.json", `{"count": 4}`)
		err := parquet.WriteFile(filepath.Join(dir, n+".parquet"), []fetched{{n + "0000", "one", "failed_to_download", "HTTP Error 404: Not Found", 4}, {n + "0001", "by parquet", "success", "", 5},
			{n + "0002", "three", "failed_to_download", "HTTP Error 404: Not Found", 6}, {n + "0003", "four", "success", "", 7}, {n + "0004", "five", "success", "", 8}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{dir, filepath.Join(dir, "{00000..00001}.tar"), filepath.Join(dir, "*.tar")} {
		f := open(t, address, Options{})
		if got, want := rows(t, f), []string{"00000/000000001=two", "00000/000000003=four", "00001/000010001=two", "00001/000010003=four"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q", address, got)
		}
		if f.Columns(1)["AESTHETIC_SCORE"] != 7.0 {
			t.Error(f.Columns(1))
		}
		want := map[string]int{"rows without an image: failed_to_download: HTTP Error 404: Not Found": 4, "rows of a parquet file that the tar beside it lacks": 2}
		if got := skips(f); !maps.Equal(got, want) {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// forms unpacks testdata/forms.zip.
func forms(t testing.TB) (dir string) {
	t.Helper()
	z, err := zip.OpenReader("testdata/forms.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	dir = t.TempDir()
	for _, entry := range z.File {
		r, err := entry.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, entry.Name, string(content))
	}
	return dir
}

func formFile(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(forms(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestParquetForms reads what pyarrow writes, in any order of rows.
func TestParquetForms(t *testing.T) {
	dir := forms(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.parquet"))
	if err != nil || len(files) < 18 {
		t.Fatal(len(files), err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(strings.TrimSuffix(file, ".parquet") + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var want []struct {
			Key, Caption string
			Colour       []uint8
		}
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		f := open(t, file, Options{})
		if f.Len() != len(want) {
			t.Errorf("%s: %d rows, want %d", file, f.Len(), len(want))
			continue
		}
		for k := range want {
			i := k * 7 % len(want)
			if len(want)%7 == 0 {
				i = k
			}
			content, err := f.Encoded(i)
			if err != nil {
				t.Fatal(err)
			}
			m, err := images.Decode(content)
			if err != nil {
				t.Fatal(err)
			}
			if r := f.Row(i); r.Key != want[i].Key || r.Caption != want[i].Caption || !slices.Equal(m.Pix[:3], want[i].Colour) {
				t.Errorf("%s: row %d: %+v, %v, want %+v", filepath.Base(file), i, r, m.Pix[:3], want[i])
			}
		}
	}
	if f := open(t, filepath.Join(dir, "img2dataset.parquet"), Options{}); f.Columns(1)["AESTHETIC_SCORE"] != 6.25 || skips(f)["rows without an image: failed_to_download: HTTP 404"] != 1 || len(f.Flaws()) != 0 {
		t.Error(f.Columns(1), skips(f), f.Flaws())
	}
	if f := open(t, filepath.Join(dir, "listed.parquet"), Options{}); !slices.Equal(f.Row(0).Also, []string{"a2"}) || f.Row(2).Also != nil {
		t.Error(f.Row(0), f.Row(2))
	}
	if f := open(t, filepath.Join(dir, "null_bytes.parquet"), Options{}); len(f.Flaws()) != 2 {
		t.Error(f.Flaws())
	}
}

func TestMDS(t *testing.T) {
	dir := forms(t)
	for _, name := range []string{"mds", "mds_zstd"} {
		f := open(t, filepath.Join(dir, name), Options{})
		got := rows(t, f)
		if want := []string{"shard.00000/0=a", "shard.00001/1=b", "shard.00002/2=c", "shard.00003/3=d"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
		if f.Columns(2)["score"] != 5.5 || len(f.Skipped()) != 0 {
			t.Error(f.Columns(2), f.Skipped())
		}
	}
	path := filepath.Join(dir, "mds", "shard.00001.mds")
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), filepath.Join(dir, "mds"), Options{}); err == nil || !strings.Contains(err.Error(), "shard.00001.mds") {
		t.Error(err)
	}
}

func TestFolder(t *testing.T) {
	p := picture(t, color.White)
	for name, c := range map[string]struct {
		files map[string]string
		rows  []string
		flaws []string
		skips map[string]int
	}{
		"side files": {map[string]string{"a.png": p, "a.txt": "\xef\xbb\xbfcat\r\n", "b.jpg": p, "b.caption": "dog", "c.png": p, "c.json": `{"prompt":"owl"}`, "d.png": p, "d.TXT": "elk", "e.png": p, "e.png.txt": "ant",
			"f.png": p, "f.txt": "\xff\xfec\x00a\x00t\x00", "日本 é/猫 #1 [x].png": p, "日本 é/猫 #1 [x].txt": "猫"},
			[]string{"a=cat", "b=dog", "c=owl", "d=elk", "e=ant", "f=cat", "日本 é/猫 #1 [x]=猫"}, nil, nil},
		"metadata.jsonl": {map[string]string{"train/a.png": p, "train/sub/b.png": p, "train/metadata.jsonl": "{\"file_name\":\"a.png\",\"text\":\"cat\"}\n\n{\"file_name\":\"sub/b.png\",\"text\":[\"dog\",\"hound\"]}\n"},
			[]string{"train/a=cat", "train/sub/b=dog|hound"}, nil, nil},
		"metadata.csv": {map[string]string{"a.png": p, "metadata.csv": "file_name,text\na.png,\"a cat, sleeping\"\n"}, []string{"a=a cat, sleeping"}, nil, nil},
		"one stem":     {map[string]string{"a.png": p, "a.jpg": p, "a.txt": "cat"}, []string{"a.jpg=cat", "a.png=cat"}, nil, nil},
		"flaws": {map[string]string{"a.png": p, "b.png": p, "b.txt": " \n", "c.png": p, "c.txt": "caf\xe9", "d.png": p, "d.txt": "cat\x00", "e.png": p, "e.json": "{", "f.png": p, "f.txt": "\xef\xbb\xbf\r\n", "g.png": p, "g.txt": "good"},
			[]string{"g=good"}, []string{"a.png: no caption", "b: empty caption", "c.png: .txt: not UTF-8", "d.png: .txt: not UTF-8", "e.png: .json: ", "f: empty caption"}, nil},
		"strays": {map[string]string{"a.png": p, "a.txt": "cat", "._a.png": "x", ".DS_Store": "x", "Thumbs.db": "x", ".ipynb_checkpoints/a-checkpoint.png": p, "__MACOSX/._a.png": "x", "notes.md": "x", "movie.mp4": "x", "lone.txt": "x", "README": "x", "old.tar.gz": "x"},
			[]string{"a=cat"}, nil, map[string]int{"hidden files, which systems and tools leave": 5, "files of other kinds (.md)": 1, "files of other kinds (.mp4)": 1, "captions without an image": 1, "files of other kinds (no extension)": 1, "compressed tars, whose samples cannot be read one by one: unpack them": 1}},
		"tar beside": {map[string]string{"a.png": p, "a.txt": "cat", "00001.tar": tarOf(t, "k.png", p, "k.txt", "dog"), "empty.tar": ""},
			[]string{"a=cat", "00001/k=dog"}, nil, map[string]int{"shards without a sample": 1}},
	} {
		dir := t.TempDir()
		for file, content := range c.files {
			write(t, dir, file, content)
		}
		f := open(t, dir, Options{})
		if got := rows(t, f); !slices.Equal(got, c.rows) {
			t.Errorf("%s: rows %q, want %q", name, got, c.rows)
		}
		flaws := f.Flaws()
		for i := range max(len(flaws), len(c.flaws)) {
			if i >= len(flaws) || i >= len(c.flaws) || !strings.HasPrefix(flaws[i].Key+": "+flaws[i].Why, c.flaws[i]) {
				t.Errorf("%s: flaws %q, want %q", name, flaws, c.flaws)
				break
			}
		}
		if got := skips(f); !maps.Equal(got, c.skips) && len(got)+len(c.skips) > 0 {
			t.Errorf("%s: skipped %v, want %v", name, got, c.skips)
		}
	}
}

// Linked folders are walked, a folder that is linked into itself once; a link to nothing is a row that cannot be read.
func TestFolderLinks(t *testing.T) {
	dir, p := t.TempDir(), picture(t, color.White)
	write(t, dir, "real/a.png", p)
	write(t, dir, "real/a.txt", "cat")
	write(t, dir, "set/b.png", p)
	write(t, dir, "set/b.txt", "dog")
	for from, to := range map[string]string{"set/sub": filepath.Join(dir, "real"), "real/loop": filepath.Join(dir, "real")} {
		if err := os.Symlink(to, filepath.Join(dir, filepath.FromSlash(from))); err != nil {
			t.Fatal(err)
		}
	}
	if got := rows(t, open(t, filepath.Join(dir, "set"), Options{})); !slices.Equal(got, []string{"b=dog", "sub/a=cat"}) {
		t.Errorf("%q", got)
	}
	// A hub cache gives its current snapshot.
	write(t, dir, "hub/refs/main", "abc\n")
	write(t, dir, "hub/blobs/123", p)
	write(t, dir, "hub/snapshots/old/x.png", p)
	write(t, dir, "hub/snapshots/abc/y.txt", "owl")
	if err := os.Symlink(filepath.Join(dir, "hub/blobs/123"), filepath.Join(dir, "hub/snapshots/abc/y.png")); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, open(t, filepath.Join(dir, "hub"), Options{})); !slices.Equal(got, []string{"y=owl"}) {
		t.Errorf("%q", got)
	}
}

func TestZip(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, m := range [][2]string{{"val/", ""}, {"val/b.png", picture(t, color.White)}, {"val/a.png", picture(t, color.Black)}} {
		f, err := w.Create(m[0])
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, m[1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "val.zip", b.String())
	if got := rows(t, open(t, filepath.Join(dir, "val.zip"), Options{Uncaptioned: true})); !slices.Equal(got, []string{"val/a=", "val/b="}) {
		t.Errorf("%q", got)
	}
}

func TestBraces(t *testing.T) {
	for pattern, want := range map[string]string{
		"a.tar": "a.tar", "{00000..00002}.tar": "00000.tar 00001.tar 00002.tar", "{8..11}": "8 9 10 11", "{08..11}": "08 09 10 11",
		"x{a,b}y{0..1}": "xay0 xay1 xby0 xby1", "{a,b{0..1}}": "a b0 b1", "a{b": "a{b", "{ab}": "{ab}", "{2..1}": "{2..1}",
	} {
		if got := strings.Join(braces(pattern), " "); got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	dir, p := t.TempDir(), picture(t, color.White)
	write(t, dir, "x/0.tar", tarOf(t, "a.png", p, "a.txt", "cat"))
	write(t, dir, "y/z/1.tar", tarOf(t, "a.png", p, "a.txt", "cat"))
	write(t, dir, "y/[1].tar", tarOf(t, "a.png", p, "a.txt", "cat"))
	for pattern, n := range map[string]int{"**/*.tar": 3, "?/0.tar": 1, "y/[1].tar": 1, "{x,y}/*": 2} {
		if f, err := Open(context.Background(), filepath.Join(dir, pattern), Options{}); err != nil || f.Len() < n {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	if _, err := Open(context.Background(), filepath.Join(dir, "{0..3}.tar"), Options{}); err == nil || !strings.Contains(err.Error(), "0.tar") {
		t.Error(err)
	}
	if _, err := Open(context.Background(), filepath.Join(dir, "q*"), Options{}); err == nil || !strings.Contains(err.Error(), "nothing is of the pattern") {
		t.Error(err)
	}
}

// An index is made once and kept; one that is damaged or of another shard is made anew.
func TestIndexIsKept(t *testing.T) {
	defer func(n int64) { largeShard = n }(largeShard)
	largeShard = 0
	dir, p := t.TempDir(), picture(t, color.White)
	opt := Options{Index: filepath.Join(dir, "index")}
	var members []string
	for i := range 50 {
		members = append(members, fmt.Sprintf("%d.png", i), p, fmt.Sprintf("%d.txt", i), "cat")
	}
	write(t, dir, "a.tar", tarOf(t, members...))
	first := open(t, filepath.Join(dir, "a.tar"), opt)
	kept, err := filepath.Glob(filepath.Join(dir, "index", "*", "*.rows"))
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	before, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(before) > 50*60+1000 {
		t.Errorf("%d bytes for 50 rows", len(before))
	}
	second := open(t, filepath.Join(dir, "a.tar"), opt)
	if !slices.Equal(rows(t, first), rows(t, second)) || first.State() != second.State() || first.Fingerprint() != second.Fingerprint() {
		t.Error("the second opening gives other rows")
	}
	for _, damaged := range []string{"", "x", string(before[:len(before)-1]), "FSROWS04" + strings.Repeat("\xff", 30)} {
		os.Remove(kept[0]) // the mapped one stays as it is
		write(t, dir, filepath.Join("index", filepath.Base(filepath.Dir(kept[0])), filepath.Base(kept[0])), damaged)
		if f := open(t, filepath.Join(dir, "a.tar"), opt); f.Len() != 50 {
			t.Errorf("%d rows", f.Len())
		}
	}
}

func FuzzSegment(f *testing.F) {
	b := newBuilder()
	b.add(entry{Row: Row{Key: "a", Caption: "cat", Also: []string{"x"}, Weight: 1}, place: place{Name: "n", Offset: 5, Size: 7}, columns: map[string]any{"w": 1.5}}, false)
	raw, err := b.bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parseSegment(raw)
		if err != nil {
			return
		}
		for i := range min(s.head.Rows, 100) {
			s.entry(i)
		}
	})
}
