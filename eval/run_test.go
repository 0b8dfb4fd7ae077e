package eval

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/engine"
	"fewstep/eval/metric"
	"fewstep/eval/report"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/dtypes"
	"github.com/parquet-go/parquet-go"
)

var opened = sync.OnceValues(func() (*xla.Runtime, error) { return xla.Open(xla.Auto, xla.Options{}) })

// tiny is an evaluation of a few images with few real ones.
func tiny(t *testing.T) Spec {
	t.Helper()
	rt, err := opened()
	if err != nil {
		xlatest.Missing(t, err)
	}
	mini := filepath.Join("..", "assets", "mini")
	records, err := parquet.ReadFile[data.Record](filepath.Join("..", "data", "testdata", "emoji.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	counts, few := map[string]int{}, []data.Record{}
	for _, r := range records {
		if counts[r.Split]++; counts[r.Split] <= map[string]int{"train": 100, "eval": 8}[r.Split] {
			few = append(few, r)
		}
	}
	source := filepath.Join(t.TempDir(), "few.parquet")
	if err := data.WriteParquet(source, few); err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Open(mini)
	if err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.Model, c.Data.Source, c.Data.Resolution = mini, source, 32
	c.Data.Captions = configs.Captions{Fine: 0.4, Kind: 0.3, Coarse: 0.3}
	c.Eval = configs.Eval{Samples: 8, Batch: 4, Guidance: 3, TeacherSteps: 2, Steps: []int{1}, SheetSamples: 3, Seed: 5, Bootstrap: 20}
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	specs, err := p.UNetSpecs(rt.Backend, nil)
	if err != nil {
		t.Fatal(err)
	}
	base := func(e *engine.Engine) (*engine.Params, func(), error) {
		v, err := pipeline.Read(mini, "unet")
		if err != nil {
			return nil, nil, err
		}
		m, err := e.Load(specs, v, nil)
		if err != nil {
			return nil, nil, err
		}
		return m, m.FreeAll, nil
	}
	return Spec{Engine: e, Pipeline: p, Config: c, Base: base, Entries: []Entry{
		{Model: "2step_unet", Kind: report.Full, Steps: 2, Prediction: p.Prediction, Load: base},
	}}
}

// TestEvaluationContinues: what was saved is not measured again, and the table is the same to the byte.
func TestEvaluationContinues(t *testing.T) {
	s := tiny(t)
	kept := map[string][]byte{}
	s.Save = func(name string, b []byte) error { kept[name] = bytes.Clone(b); return nil }
	s.Load = func(name string) ([]byte, bool) { b, ok := kept[name]; return b, ok }
	var measured []string
	s.Progress = func(p Progress) {
		if p.Row > 0 && !p.Saved && p.Done == p.Total {
			measured = append(measured, p.Model)
		}
	}
	evaluate := func() []byte {
		measured = nil
		table, err := Evaluate(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(table)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	whole := evaluate()
	if want := []string{"teacher", "teacher", "teacher", "2step_unet"}; !slices.Equal(measured, want) {
		t.Errorf("measured %v, want %v", measured, want)
	}
	delete(kept, "undistilled-teacher-1-2.json")
	if again := evaluate(); !bytes.Equal(again, whole) {
		t.Error("a continued evaluation gives another table")
	}
	if len(measured) != 1 {
		t.Errorf("after one row was lost, %v were measured", measured)
	}

	// Rows are compared with the teacher's images: without these it is drawn again, and the others stay what they are.
	delete(kept, "teacher-teacher-2-4.images")
	if again := evaluate(); !bytes.Equal(again, whole) {
		t.Error("with the teacher drawn again, another table")
	}
	if !slices.Equal(measured, []string{"teacher"}) || len(kept["teacher-teacher-2-4.images"]) == 0 {
		t.Errorf("after the teacher's images were lost, %v were measured", measured)
	}

	s.Config.Eval.Seed++
	s.Base, s.Entries = nil, s.Entries[:1]
	if other := evaluate(); bytes.Equal(other, whole) || len(measured) != 1 {
		t.Errorf("with another seed, %v were measured and the table is %s", measured, other)
	}

	var table Table
	if err := json.Unmarshal(whole, &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 5*4+3*2 || len(table.Columns) != 4 || len(table.Columns[0].Pictures) != 3 {
		t.Fatalf("%d rows, %d columns", len(table.Rows), len(table.Columns))
	}
	for _, r := range table.Rows {
		if r.Samples != 8 || !(r.Low <= r.Value && r.Value <= r.High) {
			t.Errorf("row %+v", r)
		}
	}
	sheet, err := table.Sheet(nil)
	if err != nil || len(sheet) == 0 {
		t.Fatalf("sheet of %d bytes: %v", len(sheet), err)
	}
}

// TestDiversityOfModelsAlone: prompts that are drawn more than once have a diversity; the floor, whose rows repeat, has
// none.
func TestDiversityOfModelsAlone(t *testing.T) {
	s := tiny(t)
	s.Config.Data.Captions = configs.Captions{Coarse: 1}
	s.Config.Eval.Samples = 40
	s.Base, s.Entries = nil, s.Entries[:1]
	table := evaluated(t, s)
	var of []report.Kind
	for _, r := range table.Rows {
		if r.Metric == metric.Diversity {
			of = append(of, r.Kind)
		}
	}
	if !slices.Equal(of, []report.Kind{report.Full}) {
		t.Errorf("a diversity of %q", of)
	}
}

func TestEvaluationNeedsBothSplits(t *testing.T) {
	s := tiny(t)
	records, err := parquet.ReadFile[data.Record](s.Config.Data.Source)
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		records[i].Split = "train"
	}
	if err := data.WriteParquet(s.Config.Data.Source, records); err != nil {
		t.Fatal(err)
	}
	if _, err := Evaluate(context.Background(), s); err == nil {
		t.Error("evaluated without held-out rows")
	}
}

// slowJudge measures a row only when images of the next one have been looked at.
type slowJudge struct {
	Judge
	looked   chan struct{}
	features int
	measured int
	fails    bool
}

func (j *slowJudge) Features(images []*image.NRGBA) ([]Features, error) {
	if j.features += len(images); j.features > len(captionsOfTests) && j.features <= len(captionsOfTests)+len(images) {
		close(j.looked)
	}
	return j.Judge.Features(images)
}

func (j *slowJudge) Measure(images []Features, captions Captions, teacher []Features) ([]Value, error) {
	if j.measured++; j.measured == 1 {
		select {
		case <-j.looked:
		case <-time.After(20 * time.Second):
			return nil, errors.New("nothing was drawn beside the measuring")
		}
		if j.fails {
			return nil, errors.New("no number")
		}
	}
	return j.Judge.Measure(images, captions, teacher)
}

func (j *slowJudge) AtOnce() int { return 1 }

// manyJudge measures several rows at a time.
type manyJudge struct{ Judge }

func (manyJudge) AtOnce() int { return 3 }

// TestMeasuringBehind: a row is measured while the next one is drawn; the table is the same, and an error names the row
// that could not be measured.
func TestMeasuringBehind(t *testing.T) {
	s := random(t)
	second := s.Entries[0]
	second.Model, second.Steps = "second", 1
	s.Entries = append(s.Entries, second)
	want := marshalled(t, evaluated(t, s))
	table := func(fails bool) (*Table, error) {
		v, err := Open(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		v.protocol.judge = &slowJudge{Judge: v.protocol.judge, looked: make(chan struct{}), fails: fails}
		return v.Table(t.Context(), s.Entries)
	}
	got, err := table(false)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(marshalled(t, got), want) {
		t.Error("measured behind the drawing the table is another")
	}
	v, err := Open(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	v.protocol.judge = manyJudge{v.protocol.judge}
	if got, err = v.Table(t.Context(), s.Entries); err != nil || !bytes.Equal(marshalled(t, got), want) {
		t.Errorf("several rows measured at once give another table (%v)", err)
	}
	if _, err := table(true); err == nil || err.Error() != "evaluating 2step at 2 steps: no number" {
		t.Errorf("error %v", err)
	}
}
