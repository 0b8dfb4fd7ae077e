package ablation

import (
	"io"
	"os"
	"path/filepath"

	"fewstep/eval"
	"fewstep/eval/report"
	"fewstep/internal/atomicfile"
	"fewstep/train/rundir"
)

// WriteSmall copies of every run into DIR/NAME what Read reads: recipe, lineage, statistics and table. The pictures of the
// teacher and of untrained students are kept in the first run alone, those of distilled models in the first run of each
// recipe. A page of the copies is the page of the runs.
func (a *Ablation) WriteSmall(dir string) error {
	for i, r := range a.Recipes {
		for j, run := range r.Runs {
			keep := func(c eval.Column) bool {
				return j == 0 && (i == 0 || c.Kind == report.Full || c.Kind == report.LoRA)
			}
			if err := run.writeSmall(filepath.Join(dir, filepath.Base(filepath.Clean(run.Dir))), keep); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Run) writeSmall(to string, keep func(eval.Column) bool) error {
	for _, name := range []string{"config.yaml", "lineage.json", "stats.jsonl"} {
		in, err := os.Open(filepath.Join(r.Dir, name))
		if err != nil {
			return err
		}
		err = atomicfile.Write(filepath.Join(to, name), func(w io.Writer) error {
			_, err := io.Copy(w, in)
			return err
		})
		in.Close()
		if err != nil {
			return err
		}
	}
	d, err := rundir.View(to)
	if err != nil {
		return err
	}
	defer d.Close()
	return r.Table.WithPictures(keep).Save(d)
}
