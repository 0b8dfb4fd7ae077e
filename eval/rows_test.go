package eval

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/data"
	"fewstep/model/pipeline"
	"fewstep/model/weights"

	"github.com/parquet-go/parquet-go"
)

func written(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCOCOCaptions(t *testing.T) {
	coco := written(t, "captions_val2014.json", `{"info": {}, "images": [{"id": 7}, {"id": 5}], "licenses": [], "annotations": [
		{"image_id": 5, "id": 900, "caption": "A man on a horse. \n"}, {"image_id": 7, "id": 2, "caption": "Two dogs"},
		{"image_id": 5, "id": 1, "caption": "A horse"}, {"image_id": 9, "id": 3, "caption": "A plate"}]}`)
	l, err := ReadCaptions("captions", coco, 0)
	if err != nil || !slices.Equal(l.Texts, []string{"A man on a horse.", "Two dogs", "A plate"}) || len(l.SHA256) != 64 {
		t.Errorf("%+v, %v", l, err)
	}
	if l.Files != nil {
		t.Errorf("file names %q of a file that has none", l.Files)
	}
	named := written(t, "named.json", `{"images": [{"id": 7, "file_name": "seven.jpg"}, {"id": 5, "file_name": "five.jpg"}],
		"annotations": [{"image_id": 5, "caption": "A man"}, {"image_id": 7, "caption": "Two dogs"}, {"image_id": 5, "caption": "A horse"}]}`)
	if l, err := ReadCaptions("captions", named, 0); err != nil || !slices.Equal(l.Files, []string{"five.jpg", "seven.jpg"}) {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := ReadCaptions("captions", named, 1); err != nil || !slices.Equal(l.Files, []string{"five.jpg"}) {
		t.Errorf("limited to one: %+v, %v", l, err)
	}
	if l, err := ReadCaptions("captions", coco, 2); err != nil || len(l.Texts) != 2 {
		t.Errorf("limited to two: %+v, %v", l, err)
	}
	if _, err := ReadCaptions(COCO10K, coco, 0); err == nil || !strings.Contains(err.Error(), "captions of 3 images, the protocol coco10k needs 10000") {
		t.Errorf("a short file as coco10k: %v", err)
	}
	var annotations []string
	for i := range 2 * 10_500 { // two captions of each image, the second of the first image last
		annotations = append(annotations, fmt.Sprintf(`{"image_id": %d, "caption": "image %d, caption %d"}`, i%10_500, i%10_500, i/10_500))
	}
	many := written(t, "many.json", `{"annotations": [`+strings.Join(annotations, ",")+`]}`)
	if l, err := ReadCaptions(COCO10K, many, 0); err != nil || len(l.Texts) != 10_000 || l.Texts[0] != "image 0, caption 0" || l.Texts[9_999] != "image 9999, caption 0" {
		t.Errorf("coco10k: %d captions, %v", len(l.Texts), err)
	}
	for content, want := range map[string]string{
		`{"annotations": []}`: "no annotations",
		`[1]`:                 "not COCO's captions",
		`{"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}`:     "annotation 0 has no image_id or no caption",
		`{"annotations": [{"image_id": 4, "caption": "  "}]}`:          "image 4: empty caption",
		`{"annotations": [{"image_id": 4, "caption": "cut off`:         "not COCO's captions",
		`{"annotations": [{"image_id": "four", "caption": "a horse"}]`: "not COCO's captions",
	} {
		path := written(t, "c.json", content)
		if _, err := ReadCaptions("captions", path, 0); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want %q", content, err, want)
		}
	}
	if _, err := ReadCaptions("coco5k", coco, 0); err == nil {
		t.Error("an unknown protocol")
	}
}

func TestParquetCaptions(t *testing.T) {
	type plain struct {
		ID   int64  `parquet:"id"`
		Text string `parquet:"text"`
	}
	path := filepath.Join(t.TempDir(), "c.parquet")
	var rows []plain
	for i := range 3000 {
		rows = append(rows, plain{int64(i), strings.Repeat("word ", i%7+1)})
	}
	if err := parquet.WriteFile(path, rows, parquet.MaxRowsPerRowGroup(1000)); err != nil {
		t.Fatal(err)
	}
	l, err := ReadCaptions("captions", path, 0)
	if err != nil || len(l.Texts) != 3000 || l.Texts[2999] != strings.TrimSpace(rows[2999].Text) {
		t.Fatalf("%d captions, %v", len(l.Texts), err)
	}
	rows[1234].Text = " "
	if err := parquet.WriteFile(path, rows, parquet.MaxRowsPerRowGroup(1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCaptions("captions", path, 0); err == nil || !strings.Contains(err.Error(), "row 1234: empty caption") {
		t.Errorf("an empty caption: %v", err)
	}
	if _, err := ReadCaptions("captions", written(t, "x.parquet", "not parquet"), 0); err == nil || !strings.Contains(err.Error(), "not a readable parquet file") {
		t.Errorf("not a parquet file: %v", err)
	}
	if err := parquet.WriteFile(path, []plain{}); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{"captions", COCO10K} {
		if _, err := ReadCaptions(protocol, path, 0); err == nil || !strings.Contains(err.Error(), path+" holds no captions") {
			t.Errorf("%s, no rows: %v", protocol, err)
		}
	}
	type other struct {
		Title string `parquet:"title"`
	}
	if err := parquet.WriteFile(path, []other{{"x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := data.ReadCaptions(path); err == nil || !strings.Contains(err.Error(), "no caption column") || !strings.Contains(err.Error(), "title") {
		t.Errorf("no caption column: %v", err)
	}
}

func TestReadRows(t *testing.T) {
	path := written(t, "rows.yaml", `rows:
  - {name: Turbo, model: turbo, steps: [1, 4], guidance: 0}
  - {model: "hf:a/b", lora: /abs/l.safetensors, prediction: sample}
  - {run: runs/demo}
  - {name: found, images: pictures, steps: 4}
`)
	rows, err := ReadRows(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 4 || rows[0].Model != filepath.Join(filepath.Dir(path), "turbo") || !slices.Equal(rows[0].Steps, intList{1, 4}) ||
		*rows[0].Guidance != 0 || rows[1].LoRA != "/abs/l.safetensors" || rows[1].Model != "hf:a/b" || rows[1].Guidance != nil || !slices.Equal(rows[3].Steps, intList{4}) {
		t.Errorf("%+v", rows)
	}
	for content, want := range map[string]string{
		"": "names no rows",
		"rows:\n  - {run: r}\n---\nrows:\n  - {run: s}\n":  "a second YAML document",
		"rows: [{name: a, stepz: 4}]":                      "stepz",
		"rows: [{name: a, steps: 0}]":                      "row 1: 0 steps",
		"rows: [{name: a, steps: four}]":                   "four",
		"rows: [{run: r, name: x}]":                        "no other keys",
		"rows: [{images: i, lora: l}]":                     "exclude each other",
		"rows: [{images: i}]":                              "need a name",
		"rows: [{name: a, guidance: -1}]":                  "negative",
		"rows: [{name: a, sampler: dpm, steps: 4}]":        "unknown sampler",
		"rows: [{name: a, kind: real, steps: 4}]":          "is none of teacher",
		"rows: [{name: a, steps: 1}, {run: r, lora: l}]\n": "row 2",
	} {
		if _, err := ReadRows(written(t, "r.yaml", content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", content, err, want)
		}
	}
}

func FuzzReadRows(f *testing.F) {
	f.Add("rows: [{name: a, model: m, steps: [1, 2], guidance: 1.5, prediction: sample, kind: full}]")
	f.Add("rows:\n  - run: x\n")
	f.Add("rows: [[[")
	f.Fuzz(func(t *testing.T, content string) {
		rows, err := ReadRows(written(t, "r.yaml", content))
		if err == nil && len(rows) == 0 {
			t.Error("no rows and no error")
		}
	})
}

func FuzzCOCOCaptions(f *testing.F) {
	f.Add([]byte(`{"annotations": [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]}`))
	f.Add([]byte(`{"annotations": [{"image_id": 1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		texts, files, err := cocoCaptions(raw)
		if err == nil && files != nil && len(files) != len(texts) {
			t.Errorf("%d file names of %d captions", len(files), len(texts))
		}
		if err == nil && (len(texts) == 0 || slices.ContainsFunc(texts, func(s string) bool { return strings.TrimSpace(s) == "" })) {
			t.Errorf("captions %q", texts)
		}
	})
}

// exportedUNet writes the pipeline's own UNet as a run exports it.
func exportedUNet(t *testing.T, s Spec, path, steps, title string) {
	t.Helper()
	specs, err := s.Pipeline.UNetSpecs(s.Engine.Backend, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pipeline.Read(s.Pipeline.Dir, "unet")
	if err != nil {
		t.Fatal(err)
	}
	err = pipeline.WriteFile(path, specs, v, weights.F16, map[string]string{"modelspec.sai_model_spec": "1.0.1", "modelspec.title": title,
		"modelspec.prediction_type": "sample", "fewstep.sampler.steps": steps, "fewstep.sampler.guidance_scale": "0"})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRowsAreMeasuredByOneRuler: a directory, a UNet file and images made elsewhere in one table.
func TestRowsAreMeasuredByOneRuler(t *testing.T) {
	s := random(t)
	s.Images = t.TempDir()
	file := filepath.Join(t.TempDir(), "three.safetensors")
	exportedUNet(t, s, file, "3", "three")
	three := 3.0
	entries, err := s.Rows([]RowSpec{{Steps: intList{2, 1}, Guidance: &three}, {UNet: file}, {UNet: file, Name: "as epsilon", Steps: intList{1}, Prediction: "epsilon", Kind: "teacher"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, strings.Join([]string{e.fileName(), e.Prediction.String(), e.Files[0].Name}, " "))
		if len(e.Files) != 1 || len(e.Files[0].SHA256) != 64 {
			t.Errorf("files %+v", e.Files)
		}
	}
	sum, err := digest("as epsilon")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"undistilled-tinymodel-2-4 epsilon UNet", "undistilled-tinymodel-1-2 epsilon UNet", "full-three-3-3 sample UNet", "teacher-as-epsilon-" + sum[:8] + "-1-1 epsilon UNet"}
	if !slices.Equal(got, want) {
		t.Errorf("entries %q, want %q", got, want)
	}
	s.Entries = entries
	table := evaluated(t, s)
	if len(table.Rows) != 4+3*2 || len(table.Columns) != 4 { // scores, and what the others have of the teacher's images
		t.Fatalf("%d rows, %d columns", len(table.Rows), len(table.Columns))
	}
	if slices.Equal(table.Columns[2].Pictures[0], table.Columns[0].Pictures[0]) {
		t.Error("two models draw the same picture")
	}
	if _, err := s.Rows([]RowSpec{{UNet: file}, {UNet: file}}); err == nil || !strings.Contains(err.Error(), "two rows are three at 3 steps") {
		t.Errorf("the same row twice: %v", err)
	}
	if _, err := s.Rows([]RowSpec{{UNet: filepath.Join(s.Pipeline.Dir, "unet", "diffusion_pytorch_model.safetensors")}}); err == nil || !strings.Contains(err.Error(), "does not say for how many steps") {
		t.Errorf("a file that says no steps: %v", err)
	}
	folder := filepath.Join(s.Images, "full-three-3-3")
	before, err := s.Rows([]RowSpec{{Name: "found", Images: folder, Steps: intList{3}}})
	if err != nil || before[0].Files[0].Note != "10 files, made elsewhere" {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "000000.png"), picture(9), 0o644); err != nil {
		t.Fatal(err)
	}
	if after, err := s.Rows([]RowSpec{{Name: "found", Images: folder, Steps: intList{3}}}); err != nil || after[0].Digest == before[0].Digest {
		t.Errorf("a changed image leaves the row what it was: %v", err)
	}
	if _, err := s.Rows([]RowSpec{{LoRA: "missing.safetensors", Steps: intList{1}}}); err == nil || !strings.Contains(err.Error(), "missing.safetensors") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestExampleRows: the rows file that comes with the repository is read.
func TestExampleRows(t *testing.T) {
	rows, err := ReadRows(filepath.Join("..", "configs", "eval", "sdxl.yaml"))
	if err != nil || len(rows) != 8 || rows[7].Sampler != "lcm" {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}
