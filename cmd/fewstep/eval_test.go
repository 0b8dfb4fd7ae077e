package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/train/tinypipeline"
)

// TestEval measures a random model by a list of captions, twice: the second time nothing is left to do.
func TestEval(t *testing.T) {
	dir := t.TempDir()
	if _, err := tinypipeline.Write(dir, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	captions, rows, out, images := filepath.Join(dir, "captions.json"), filepath.Join(dir, "rows.yaml"), filepath.Join(dir, "out"), filepath.Join(dir, "images")
	for path, content := range map[string]string{
		captions: `{"annotations": [{"image_id": 1, "caption": "red disc"}, {"image_id": 1, "caption": "again"}, {"image_id": 2, "caption": "blue square"},
			{"image_id": 3, "caption": "green disc"}, {"image_id": 4, "caption": "disc"}, {"image_id": 5, "caption": "square"}]}`,
		rows: `rows:
  - {name: big, steps: 2, guidance: 3, kind: teacher}
  - {name: small, steps: [1, 2], sampler: lcm, kind: full}
`,
	} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"eval", "--backend", "go", "--json", "--model", filepath.Join(dir, "tinymodel"), "--rows", rows, "--protocol", "captions", "--captions-file", captions,
		"--batch", "2", "--bootstrap", "20", "--out", out, "--keep-images", images}
	stdout, stderr, code := runCommand(t, args...)
	if code != 0 {
		t.Fatalf("code %d: %s", code, stderr)
	}
	var table []struct {
		Model, Kind, Metric string
		Steps, Calls        int
		Value               float64
		Low, High           *float64
		Samples             int
	}
	if err := json.Unmarshal([]byte(stdout), &table); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	// Scores, and what the others have of the teacher's images.
	if len(table) != 3+2*2 || table[0].Model != "big" || table[0].Calls != 4 || table[4].Steps != 2 || table[4].Samples != 5 || table[1].Low == nil || table[1].Metric != "CLIP score" || table[2].Metric != "Teacher RMS" {
		t.Errorf("table %+v", table)
	}
	for _, name := range []string{"index.html", "metrics.csv", "metrics.json", "table.json", "timing.jsonl"} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	if kept, _ := filepath.Glob(filepath.Join(images, "*", "*.png")); len(kept) != 15 {
		t.Errorf("%d images were kept, want 3 rows of 5", len(kept))
	}
	page, _ := os.ReadFile(filepath.Join(out, "index.html"))
	for _, want := range []string{"captions: 5 prompts", "sampled by lcm, guidance 0", "--captions-file", "there are no distances"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	again, stderr, code := runCommand(t, args...)
	if code != 0 || again != stdout || strings.Count(stderr, "was measured before") != 3 {
		t.Errorf("measured again: code %d, the same table: %v\n%s", code, again == stdout, stderr)
	}
}

// TestEvalHelp: the help says where the networks of the conventions come from, with their hashes.
func TestEvalHelp(t *testing.T) {
	stdout, _, code := runCommand(t, "eval", "--help")
	for _, want := range []string{"6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", "curl -LO https://github.com/mseitzer/pytorch-fid/",
		"a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb", "hf download openai/clip-vit-large-patch14", "hf download laion/", "scripts/fetch_nsfwjs.py"} {
		if !strings.Contains(stdout, want) || code != 0 {
			t.Errorf("code %d, the help lacks %q", code, want)
		}
	}
}

func TestEvalUsage(t *testing.T) {
	for want, args := range map[string]string{
		"leave --unet, --lora":                     "--rows r.yaml --unet x",
		"the run's own settings":                   "--follow run --seed 4",
		"needs a folder for its results":           "--follow run",
		"--protocol coco10k needs a file":          "--protocol coco10k",
		"belong to another protocol":               "--captions-file c.json",
		"unknown sampler":                          "--model ../../assets/mini --sampler dpm",
		"--steps wants counts":                     "--model ../../assets/mini --steps 0",
		"--guidance wants":                         "--model ../../assets/mini --guidance -1",
		"is not a multiple":                        "--model ../../assets/mini --resolution 33",
		"exclude each other":                       "--protocol captions --captions-file c --convention mini --inception i --reference a --reference-stats b",
		"by the pipeline's own CLIP":               "--inception i",
		"needs the weights of an Inception":        "--convention lightning",
		"it must be auto, f32 or bf16":             "--compute fp8",
		"coco10k is one image of every caption":    "--protocol coco10k --captions-file c --per-caption 2",
		"--per-caption 0":                          "--per-caption 0",
		"saves Inception statistics":               "--save-stats d",
		"--every wants":                            "--follow run --out x --every 0s",
		"in a rows file it stands in the row":      "--rows r.yaml --sampler lcm",
		"--captions wants three":                   "--model ../../assets/mini --captions 1",
		"unknown protocol \"coco5k\"; there are m": "--model ../../assets/mini --protocol coco5k --captions-file eval_test.go",
	} {
		_, stderr, code := runCommand(t, append([]string{"eval"}, strings.Fields(args)...)...)
		if !strings.Contains(stderr, want) || code == 0 || strings.Contains(stderr, "panic") {
			t.Errorf("%s: code %d, %q, want %q", args, code, stderr, want)
		}
		if code != exitUsage && !strings.Contains(want, "protocol \"coco5k\"") {
			t.Errorf("%s: code %d, want %d", args, code, exitUsage)
		}
	}
}
