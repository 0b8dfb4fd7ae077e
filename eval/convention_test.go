package eval

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/model/inception"
	"fewstep/model/nn"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"

	"fewstep/internal/xla/xlatest"
)

// drawnInception writes an Inception network of random weights.
func drawnInception(t *testing.T, e *engine.Engine) string {
	t.Helper()
	specs, err := inception.StateDict(e.Backend)
	if err != nil {
		t.Fatal(err)
	}
	values := engine.Fresh(specs,
		func(name string, v []float32) {
			for i := range v {
				v[i] = float32(distill.Uniform(3, distill.Init, int64(len(name)), uint32(i)))
			}
		},
		func(name string, v []float32) { distill.Normal(v, 3, distill.Init, int64(len(name))) })
	var tensors []weights.Tensor
	for _, s := range specs {
		v := values[s.Name]
		if strings.HasSuffix(s.Name, "running_var") {
			for i := range v {
				v[i] = 1
			}
		}
		tensors = append(tensors, weights.FromFloat32(s.Name, s.Dims, v, weights.F32))
	}
	path := filepath.Join(t.TempDir(), "inception.safetensors")
	if err := weights.Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConvention measures generated images by Inception features, real ones in their own sizes, and names the metrics
// after weights that are not the FID network's.
func TestConvention(t *testing.T) {
	rt, err := opened()
	if err != nil {
		xlatest.Missing(t, err)
	}
	s := random(t)
	s.Images = t.TempDir()
	evaluated(t, s) // draws the images on the pure-Go backend
	s.Entries = []Entry{{Model: "found", Kind: "full", Steps: 2, Images: filepath.Join(s.Images, "full-2step-2-2")}}
	s.Images = ""
	s.Engine = engine.New(rt.Backend, dtypes.Float32, nn.Network)
	s.Convention, s.Sources = "mini", metric.Sources{Inception: drawnInception(t, s.Engine)}
	s.Reference = t.TempDir()
	for i := range 12 {
		if err := os.WriteFile(filepath.Join(s.Reference, fmt.Sprintf("%02d.png", i)), picture(uint8(20*i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.SaveStats = filepath.Join(t.TempDir(), "stats")
	var told []string
	s.Metric = func(name string) { told = append(told, name) }
	table := evaluated(t, s)
	var names []string
	for _, r := range table.Rows {
		if !slices.Contains(told, r.Metric) {
			t.Errorf("%s was computed without a word; told of %q", r.Metric, told)
		}
		names = append(names, r.Metric)
		if r.Convention != "mini" || r.Samples != len(captionsOfTests) || !(r.Low <= r.Value && r.Value <= r.High) {
			t.Errorf("row %+v", r)
		}
	}
	// From the saved statistics the distances are the same.
	again := s
	again.Reference, again.SaveStats = "", ""
	again.ReferenceStats = []string{filepath.Join(s.SaveStats, "whole.npz"), filepath.Join(s.SaveStats, "patch.npz")}
	for i, r := range evaluated(t, again).Rows[:2] {
		if want := table.Rows[i]; r.Metric != want.Metric || math.Abs(r.Value-want.Value) > 1e-6*want.Value {
			t.Errorf("from saved statistics %+v, from the images %+v", r, want)
		}
	}
	again.ReferenceStats, again.SaveStats = nil, t.TempDir()
	if _, err := Evaluate(context.Background(), again); err == nil || !strings.Contains(err.Error(), "no real images whose statistics") {
		t.Errorf("statistics of no real images: %v", err)
	}
	// Images of any sizes are measured, and without resamples no value has an interval.
	odd := s
	odd.SaveStats = ""
	odd.Entries = []Entry{{Model: "odd", Kind: "full", Steps: 2, Images: t.TempDir()}}
	odd.Config.Eval.Bootstrap = 0
	for i := range captionsOfTests {
		img := image.NewRGBA(image.Rect(0, 0, 13+3*i, 40-2*i))
		for k := range img.Pix {
			img.Pix[k] = uint8(k*(7*i+3) | 3)
		}
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(odd.Entries[0].Images, fmt.Sprintf("%02d.png", i)), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	measured := evaluated(t, odd)
	if len(measured.Rows) != len(table.Rows) {
		t.Errorf("%d values of odd-sized images, %d of others", len(measured.Rows), len(table.Rows))
	}
	for _, r := range measured.Rows {
		if !math.IsNaN(r.Low) || !math.IsNaN(r.High) || math.IsNaN(r.Value) {
			t.Errorf("without resamples: %+v", r)
		}
	}
	for _, m := range measured.Metrics {
		if strings.Contains(m.Note, "Interval from") || !strings.Contains(m.Note, "No interval.") {
			t.Errorf("without resamples: %s", m.Note)
		}
	}
	if raw, err := measured.Sheet(nil); err != nil || len(raw) == 0 {
		t.Errorf("a sheet of odd-sized images: %v", err)
	}
	got := strings.Join(names, " ")
	if strings.Contains(got, "FID") || !strings.Contains(got, "FD(unknown-") || !strings.Contains(got, "Precision(unknown-") {
		t.Errorf("metrics %s", got)
	}
	if len(table.Metrics) == 0 || table.Metrics[0].Counterpart != "FID-Whole" {
		t.Errorf("metrics %+v", table.Metrics)
	}
}

// TestRealImages: real images of any size serve, and one error names all that cannot be read.
func TestRealImages(t *testing.T) {
	s := random(t)
	s.Reference = t.TempDir()
	for i := range 200 {
		if err := os.WriteFile(filepath.Join(s.Reference, fmt.Sprintf("%03d.png", i)), picture(uint8(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{5, 150} {
		if err := os.WriteFile(filepath.Join(s.Reference, fmt.Sprintf("%03d.png", i)), []byte("broken"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Evaluate(context.Background(), s)
	for _, want := range []string{"2 of 200 real images cannot be used", "005.png", "150.png"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	s.Captions.Files = []string{"003.png", "missing.png", "004.png"} // of the folder these alone
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "1 of 3 real images cannot be used") || !strings.Contains(err.Error(), "missing.png") {
		t.Errorf("a real image that is not there: %v", err)
	}
	s.Captions.Files = nil
	s.Reference = t.TempDir()
	if err := os.WriteFile(filepath.Join(s.Reference, "one.png"), picture(1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "1 reference images are too few") {
		t.Errorf("few real images: %v", err)
	}
	s.Reference = filepath.Join(filepath.Dir(s.Pipeline.Dir), "images.parquet")
	once := evaluated(t, s)
	if len(once.Rows) != 4 {
		t.Errorf("by a parquet file, %d values", len(once.Rows))
	}
	// Several images of every caption have a diversity.
	alone := *s.Captions
	s.Captions.Repeat(2)
	twice := evaluated(t, s)
	if len(twice.Rows) != 5 || !strings.Contains(fmt.Sprint(twice.Facts), "2 images each") || !bytes.Equal(twice.Columns[0].Pictures[0], once.Columns[0].Pictures[0]) {
		t.Errorf("twice every caption: %+v, %v", twice.Rows, twice.Facts)
	}
	if d := twice.Rows[2]; d.Metric != metric.Diversity || !(d.Value > 0 && d.Low <= d.Value && d.Value <= d.High) || d.Samples != 20 {
		t.Errorf("diversity %+v", d)
	}
	s.Captions = &alone
	s.Reference = t.TempDir()
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "holds no pictures") {
		t.Errorf("no real images: %v", err)
	}
	s.Convention = "lightening"
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "lightning") {
		t.Errorf("an unknown convention: %v", err)
	}
	s.Convention = "lightning"
	if _, err := Evaluate(context.Background(), s); err == nil || !strings.Contains(err.Error(), "curl -LO") {
		t.Errorf("without the network's weights: %v", err)
	}
}
