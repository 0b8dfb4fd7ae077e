package series

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fewstep/train/rundir"
)

// On two places with two slots each the most important jobs begin first, in places where nothing runs; what waits for a run
// that is on its way is overtaken in the other place and not beside that run; a job that does not end when it is asked to is
// killed. What is done is told once its place is taken.
func TestOrderOfJobs(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("main.yaml", "name: main\nmodel: m\ndata: {source: d}\n")
	write("row.yaml", "extends: main.yaml\nname: row\nstages: {\"8\": {phases: {lora-cond: {lr: 1e-3}}}}\n")
	list := write("list.yaml", "main: main.yaml\nrows: .\naccept: [eval.samples=16]\nruns:\n  - {recipe: main, seed: 1}\n  - {recipe: row, seed: 1}\n  - {recipe: main, seed: 2}\n  - {recipe: main, seed: 3}\n")
	s, err := Read(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(home, "runs")
	var said []string
	o := Options{Dir: dir, Accept: true, Set: []string{"eval.samples=8"}, Every: 20 * time.Millisecond, Say: func(text string) { said = append(said, text) }, Done: func() { said = append(said, "page") },
		Slots: []Slot{{"GPU 0", []string{"PLACE=0"}}, {"GPU 1", []string{"PLACE=1"}}, {"GPU 0", []string{"PLACE=0"}}, {"GPU 1", []string{"PLACE=1"}}},
		Stop:  time.Now().Add(3 * time.Second), Kill: time.Now().Add(4 * time.Second)}
	// Jobs: the acceptance test takes a second; the main run of seed 1 makes its first stage in two, and then neither ends nor
	// heeds a signal; the others write where they are and wait to be interrupted.
	o.Start = func(j Job) *exec.Cmd {
		script := "echo $PLACE; trap 'exit 3' INT; while :; do sleep 0.05; done"
		switch j.Name {
		case "acceptance":
			if args := strings.Join(j.Args, " "); !strings.Contains(args, "--set eval.samples=16 --set eval.samples=8") || !strings.Contains(args, "eval accept "+s.Main) {
				t.Errorf("acceptance: %s", args)
			}
			script = fmt.Sprintf("sleep 1; mkdir -p %[1]s/acceptance; echo {} > %[1]s/acceptance/acceptance.json; exit 1", dir)
		case "main-1":
			script = "trap '' INT; while :; do sleep 0.05; done"
			go func() {
				d, err := rundir.Open(filepath.Join(dir, "main-1"), s.Runs[0].Config.Resolved(), rundir.Lineage{})
				if err != nil {
					t.Error(err)
					return
				}
				defer d.Close()
				time.Sleep(2 * time.Second)
				for _, phase := range []string{"mse-lora", "merge", "mse-full"} {
					if err := d.SaveResult(rundir.Point{Stage: "32", Phase: phase}, nil, rundir.Bytes("x", nil)); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		return exec.Command("bash", "-c", script)
	}
	outcomes, err := s.Walk(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range outcomes {
		got = append(got, fmt.Sprint(x.Name, " ", x.State))
	}
	if want := "acceptance done, main-1 stopped, row-1 stopped, main-2 stopped, main-3 stopped"; strings.Join(got, ", ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	begins := slices.DeleteFunc(slices.Clone(said), func(text string) bool { return !strings.Contains(text, " begins ") })
	want := []string{"acceptance begins on GPU 0", "main-1 begins on GPU 1", "main-2 begins on GPU 0", "main-3 begins on GPU 0", "row-1 begins on GPU 1"}
	for i := range want {
		if i >= len(begins) || !strings.HasPrefix(begins[i], want[i]) {
			t.Fatalf("%q, want %q", begins, want)
		}
	}
	if at := slices.Index(said, "page"); at < 0 || !strings.HasPrefix(said[at-1], "main-2 begins") && !strings.HasPrefix(said[at-1], "main-3 begins") || slices.Contains(said[at+1:], "page") {
		t.Errorf("%q: want the page once, after the acceptance test and what begins in its place", said)
	}
	if log, err := os.ReadFile(filepath.Join(dir, "logs", "main-2.log")); err != nil || !strings.Contains(string(log), "\n0\n") {
		t.Errorf("%s, %v", log, err)
	}
}
