package family_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/model/clip"
	"fewstep/model/family"
	"fewstep/model/unet"
)

// Networks know nothing of what runs, trains or measures them: no package below model imports one above it.
func TestModelImportsNothingAbove(t *testing.T) {
	seen := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		seen++
		for _, i := range f.Imports {
			name := strings.Trim(i.Path.Value, `"`)
			if rest, ours := strings.CutPrefix(name, "fewstep/"); ours && !strings.HasPrefix(rest, "model/") && !strings.HasPrefix(rest, "internal/") {
				t.Errorf("%s imports %s", path, name)
			}
		}
		return nil
	})
	if err != nil || seen < 50 {
		t.Errorf("%d files, %v", seen, err)
	}
}

// sdxl and sd are networks of both kinds, with text encoders that fit them.
func networks() (xl, sd *unet.Config, two, one []*clip.TextConfig) {
	xl = &unet.Config{CrossAttentionDim: 12, AdditionTimeDim: 4, ProjectionDim: 24 + 8}
	sd = &unet.Config{CrossAttentionDim: 8}
	text := func(width, projection int) *clip.TextConfig {
		c := &clip.TextConfig{MaxPositions: 7, Projected: projection > 0}
		c.HiddenSize, c.ProjectionDim = width, projection
		return c
	}
	return xl, sd, []*clip.TextConfig{text(4, 0), text(8, 8)}, []*clip.TextConfig{text(8, 0)}
}

// A model's kind is told by its text encoders, and each kind's conditions are those that its network takes.
func TestKinds(t *testing.T) {
	xl, sd, two, one := networks()
	has := func(folders ...string) func(string) bool {
		return func(folder string) bool { return slices.Contains(folders, folder) }
	}
	if k := family.Of(has("text_encoder", "text_encoder_2")); k != family.SDXL {
		t.Errorf("two text encoders are of %v", k)
	}
	if k := family.Of(has("text_encoder")); k != family.SD {
		t.Errorf("one text encoder is of %v", k)
	}
	if k := family.Of(has("text_encoder_2")); k != nil {
		t.Errorf("the second text encoder alone is of %v", k)
	}
	for what, err := range map[string]error{"SDXL": family.SDXL.Fits(xl, two), "SD": family.SD.Fits(sd, one)} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for says, err := range map[string]error{
		"which the UNet does not take":                 family.SDXL.Fits(&unet.Config{CrossAttentionDim: 12}, two),
		"condition pooled, which the text":             family.SD.Fits(&unet.Config{CrossAttentionDim: 8, AdditionTimeDim: 4, ProjectionDim: 32}, one),
		"of the shape [7 8], and the UNet takes [7 9]": family.SD.Fits(&unet.Config{CrossAttentionDim: 9}, one),
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want one that says %q", err, says)
		}
	}
}

// Conditions go into the network's order by their names; what is missing is zeros, and what is of another size an error.
func TestBatch(t *testing.T) {
	xl, _, _, _ := networks()
	told := xl.Conditions(1)
	text, pooled := make([]float32, 12), []float32{1, 2, 3, 4, 5, 6, 7, 8}
	text[3] = 5
	out, err := family.Batch(told, []family.Conditions{{family.Text: text}, {family.Pooled: pooled, family.Sizes: {1, 2, 3, 4, 5, 6}, "more": {1}}})
	if err != nil || len(out) != 3 || out[0][3] != 5 || out[0][15] != 0 || out[1][0] != 0 || out[1][8] != 1 || out[2][11] != 6 {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := family.Batch(told, []family.Conditions{{family.Text: {1}}}); err == nil || !strings.Contains(err.Error(), "condition text takes 12 values") {
		t.Errorf("%v", err)
	}
	if in := family.Inputs(xl, 2, 4, 6, 7); len(in) != 5 || in[family.Given].Size() != 2*7*12 {
		t.Errorf("%v", in)
	}
}
