package eval

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"fewstep/eval/report"
	"fewstep/internal/atomicfile"
	"fewstep/train/monitor"
)

// timingName is the file of an evaluation's folder that holds the times per image.
const timingName = "timing.jsonl"

// KeepIn lets an evaluation save its rows and times in a folder of its own and find the rows there.
func (s *Spec) KeepIn(dir string) {
	s.Save = func(name string, raw []byte) error {
		return atomicfile.WriteBytes(filepath.Join(dir, rowsName, name), raw)
	}
	s.Load = func(name string) ([]byte, bool) {
		raw, err := os.ReadFile(filepath.Join(dir, rowsName, name))
		return raw, err == nil
	}
	s.Timed = func(t report.Timing) error {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		return monitor.AppendSampling(filepath.Join(dir, timingName), samplingTime(t))
	}
}

// WriteFolder writes the table, index.html, metrics.csv and metrics.json into the folder of an evaluation, with the
// times measured there. r says what else stands on the page; the table's parts are filled in.
func WriteFolder(dir string, t *Table, r *report.Report) error {
	r.Facts, r.Metrics, r.Rows, r.Published = append(slices.Clone(t.Facts), r.Facts...), t.Metrics, t.Rows, report.Lightning()
	var err error
	if r.Sheets, err = t.sheets(); err != nil {
		return err
	}
	if r.Timings, err = ReadTimings(filepath.Join(dir, timingName)); err != nil {
		return err
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteBytes(filepath.Join(dir, tableName), raw); err != nil {
		return err
	}
	return report.Write(dir, r)
}
