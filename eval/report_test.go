package eval

import (
	"bytes"
	"errors"
	"flag"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/configs"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
)

var keepDir = flag.String("keep", "", "leave the invented run's folder here")

func picture(shade uint8) []byte {
	img := image.NewNRGBA(image.Rect(0, 0, 8, 8))
	for i := range 64 {
		img.SetNRGBA(i%8, i/8, color.NRGBA{shade, uint8(i * 4), 90, 255})
	}
	var b bytes.Buffer
	_ = png.Encode(&b, img)
	return b.Bytes()
}

// inventedTable has one number of each kind that a report knows.
func inventedTable() *Table {
	t := &Table{Prompts: []string{"a cat on yellow", "a castle at night"}, Metrics: []report.Metric{
		{Name: metric.Whole, Convention: metric.Convention, Note: "invented"}, {Name: metric.Score, Convention: metric.Convention, Higher: true}}}
	for i, c := range []Column{
		{Model: "real images", Kind: report.Real}, {Model: baseModel, Kind: report.Teacher, Steps: 32, Calls: 64},
		{Model: baseModel, Kind: report.Undistilled, Steps: 8, Calls: 8}, {Model: "8step_unet", Kind: report.Full, Steps: 8, Calls: 8},
		{Model: "8step_lora", Kind: report.LoRA, Steps: 8, Calls: 8},
	} {
		if c.Steps > 0 {
			c.Pictures = [][]byte{picture(uint8(40 * i)), picture(uint8(255 - 40*i))}
		}
		v := 0.1 * float64(i+1)
		low, high := v-0.01, v+0.01
		t.add(c, []Value{{metric.Whole, v, &low, &high, 256, nil}, {metric.Score, 80 - v, nil, nil, 256, nil}})
	}
	return t
}

// inventedRun is a run directory with statistics of one adversarial phase and no checkpoint.
func inventedRun(t *testing.T, dir string) *rundir.Dir {
	t.Helper()
	c := configs.Default()
	c.Name, c.Model, c.Data.Source = "invented", "assets/mini", "assets/scenes/demo.scenes.json"
	d, err := rundir.Open(dir, c.Resolved(), rundir.Lineage{FewstepVersion: "0.0", BaseWeights: strings.Repeat("ab", 32), DataManifest: strings.Repeat("cd", 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	s, err := monitor.OpenStats(d.StatsPath(), d.TimingPath())
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	stage := c.Stages[1]
	for i := range int64(60) {
		err := s.Update(monitor.Record{Kind: monitor.KindStep, Stage: stage.Name, Phase: stage.Phases[0].Name, Step: i + 1, Samples: 16 * (i + 1), Total: 960,
			Values: monitor.Values{monitor.LossG: 0.7, monitor.LossD: 1.3 + 0.1*rng.Float64(), monitor.Accuracy: 0.6, monitor.Gap: 0.2}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.SaveArtifact(rundir.Exports, rundir.Bytes("8step_unet.safetensors", []byte("not weights"))); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestReportDependsOnResultsAlone: another folder, and a table read back, give the same files.
func TestReportDependsOnResultsAlone(t *testing.T) {
	names := []string{"index.html", "metrics.csv", "metrics.json", tableName}
	read := func(d *rundir.Dir) (out [][]byte) {
		for _, n := range names {
			b, err := os.ReadFile(d.ArtifactPath(rundir.Report, n))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	dir := t.TempDir()
	if *keepDir != "" {
		dir = *keepDir
	}
	one := inventedRun(t, filepath.Join(dir, "one"))
	if err := WriteReport(one, inventedTable(), nil); err != nil {
		t.Fatal(err)
	}
	first := read(one)

	two := inventedRun(t, filepath.Join(t.TempDir(), "elsewhere"))
	if err := two.SaveArtifact(rundir.Report, rundir.Bytes(tableName, first[3])); err != nil {
		t.Fatal(err)
	}
	table, err := ReadTable(two)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteReport(two, table, nil); err != nil {
		t.Fatal(err)
	}
	for i, b := range read(two) {
		if !bytes.Equal(b, first[i]) {
			t.Errorf("%s differs between two folders", names[i])
		}
	}
	for _, want := range []string{"8step_unet", "32 → 8", "discriminator accuracy", "assets/mini"} {
		if !strings.Contains(string(first[0]), want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if n := strings.Count(string(first[1]), "\n"); n != 1+5*2 {
		t.Errorf("metrics.csv has %d lines", n)
	}
	if problems, err := rundir.Check(filepath.Join(dir, "one")); err != nil || len(problems) > 0 {
		t.Errorf("the run directory has problems %v, %v", problems, err)
	}
}

func TestReportOfUnevaluatedRun(t *testing.T) {
	d := inventedRun(t, filepath.Join(t.TempDir(), "run"))
	if _, err := ReadTable(d); err == nil || !strings.Contains(err.Error(), "not been evaluated") {
		t.Errorf("error %v", err)
	}
}

// TestTimesStandBeside: times per image are noted outside of what must be the same for every run of a recipe, and come
// onto the page when the report is written with them.
func TestTimesStandBeside(t *testing.T) {
	d := inventedRun(t, filepath.Join(t.TempDir(), "run"))
	var s Spec
	s.Keep(d)
	for _, seconds := range []float64{0.5, 0.0125} { // measured twice: the latest counts
		if err := s.Timed(report.Timing{Model: "8step_unet", Kind: report.Full, Steps: 8, Calls: 8, SecondsPerImage: seconds, Device: "a device"}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(d.TimingPath(), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(`{"position":32,"time":"2025-03-01T12:00:02Z","step_seconds":2}` + "\n" + `{"position":64,"time":"2025-03-01T12:00:08Z","step_seconds":2}` + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	page := func(times []report.Timing) string {
		t.Helper()
		if err := WriteReport(d, inventedTable(), times); err != nil {
			t.Fatal(err)
		}
		var all []byte
		for _, name := range []string{"index.html", "metrics.json", tableName} {
			b, err := os.ReadFile(d.ArtifactPath(rundir.Report, name))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		return string(all)
	}
	if got := page(nil); strings.Contains(got, "12.5 ms") || strings.Contains(got, "seconds_per_image") || strings.Contains(got, "goodput") || !strings.Contains(got, "fewstep report&#39; writes it") {
		t.Error("the report that a run ends with has times, or does not say where they are")
	}
	times, err := ReadTimings(d.TimingPath())
	if err != nil || len(times) != 1 {
		t.Fatalf("%+v, %v", times, err)
	}
	if got := page(times); !strings.Contains(got, "goodput 50.0 %") || !strings.Contains(got, "12.5 ms") || !strings.Contains(got, `"seconds_per_image": 0.0125`) {
		t.Error("the report with times does not show them")
	}
	if problems, err := rundir.Check(d.Path()); err != nil || len(problems) > 0 {
		t.Errorf("the run directory has problems %v, %v", problems, err)
	}
}
