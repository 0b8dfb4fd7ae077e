package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"fewstep/data"
	"fewstep/data/encoded"
)

// readRow is a line of read_encoded.py.
type readRow struct {
	Row           int     `json:"row"`
	Key           string  `json:"key"`
	Caption       string  `json:"caption"`
	Width, Height int     //
	Shape         string  `json:"shape"`
	Latents       string  `json:"latents"`
	Deviations    *string `json:"deviations"`
	Text          string  `json:"text"`
	Pooled        string  `json:"pooled"`
	Bad           []int   `json:"bad"`
}

// Python reads what `fewstep data encode` wrote, with pyarrow and safetensors: the same rows, shapes, latents, deviations
// and embeddings as a run reads, to the bit.
func TestEncodedShards(t *testing.T) {
	python := os.Getenv(pythonEnv)
	if python == "" {
		t.Skipf("%s is not set: `make interop` sets it", pythonEnv)
	}
	const n = 300
	source, dir := t.TempDir(), t.TempDir()
	broken := map[int]bool{7: true, 280: true}
	for i := range n {
		m := image.NewNRGBA(image.Rect(0, 0, 16+i%9, 16+i%13))
		for k := range m.Pix {
			m.Pix[k] = uint8(k*i/7 + i)
		}
		m.SetNRGBA(0, 0, color.NRGBA{uint8(i), 9, 9, 255})
		var b bytes.Buffer
		must(t, png.Encode(&b, m))
		content := b.Bytes()
		if broken[i] {
			content = content[:20]
		}
		must(t, os.WriteFile(filepath.Join(source, fmt.Sprintf("%04d.png", i)), content, 0o666))
		must(t, os.WriteFile(filepath.Join(source, fmt.Sprintf("%04d.txt", i)), fmt.Appendf(nil, "%d \"boats\", Häuser 猫", i%90), 0o666))
	}
	recipe := filepath.Join(dir, "recipe.yaml")
	must(t, os.WriteFile(recipe, fmt.Appendf(nil, "{extends: %q, data: {source: %q, max_bad: 2, resolution: 16, posterior: sample, buckets: {list: own, own: [16x16, 24x16, 16x24]}}}",
		filepath.Join(root(t), "configs", "mini", "demo.yaml"), source), 0o666))
	out := filepath.Join(dir, "encoded")
	build := exec.Command("go", "run", "-buildvcs=false", "./cmd/fewstep", "data", "encode", source, "--recipe", recipe, "--out", out)
	build.Dir = root(t)
	if told, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, told)
	}
	read := exec.Command(python, filepath.Join("testdata", "read_encoded.py"), out)
	read.Stderr = os.Stderr
	lines, err := read.Output()
	must(t, err)

	set, err := data.Open(t.Context(), out, data.Options{})
	must(t, err)
	defer set.Close()
	store, err := encoded.Open(out)
	must(t, err)
	defer store.Close()
	if set.Len() != n-len(broken) {
		t.Fatalf("%d rows", set.Len())
	}
	decoder, shapes := json.NewDecoder(bytes.NewReader(lines)), map[string]int{}
	for i := range set.Len() {
		var got readRow
		must(t, decoder.Decode(&got))
		row := set.Row(i)
		size, err := set.Size(i)
		must(t, err)
		mean, deviation, shape, err := store.Latent(set.Chosen(i))
		must(t, err)
		text, pooled, err := store.Embedding(row.Caption)
		must(t, err)
		sum := digestOf(deviation)
		want := readRow{set.Chosen(i), row.Key, row.Caption, size.Width, size.Height, fmt.Sprintf("%dx%d", shape.Width, shape.Height),
			digestOf(mean), got.Deviations, digestOf(text), digestOf(pooled), nil}
		if got.Deviations == nil || *got.Deviations != sum || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("row %d: Python reads %+v, want %+v", i, got, want)
		}
		shapes[got.Shape]++
	}
	var end readRow
	must(t, decoder.Decode(&end))
	if fmt.Sprint(end.Bad) != "[7 280]" || len(shapes) != 3 {
		t.Errorf("bad rows %v, shapes %v", end.Bad, shapes)
	}
	t.Logf("%d rows of shapes %v", set.Len(), shapes)
}

func digestOf(v []float32) string {
	h := sha256.New()
	binary.Write(h, binary.LittleEndian, v)
	return hex.EncodeToString(h.Sum(nil))
}
