package rundir

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var asideLadder = []Phase{{"8", "a"}, {"8", "b"}, {"4", "a"}, {"4", "b"}}

// finished makes a run whose phases have results with weights that follow from the phase before, and the last a checkpoint.
func finished(t *testing.T) (string, *Dir) {
	t.Helper()
	dir := filepath.Join(scratch(t), "run")
	d := open(t, dir)
	for i := range asideLadder {
		if err := phase(t, d, i, ""); err != nil {
			t.Fatal(err)
		}
	}
	return dir, d
}

// phase trains a toy phase; other makes it come out otherwise.
func phase(t *testing.T, d *Dir, i int, other string) error {
	t.Helper()
	p := asideLadder[i]
	record(t, d, fmt.Sprintf(`{"stage":%q,"phase":%q,"loss":%d%s}`, p.Stage, p.Name, i, other))
	at := Point{Stage: p.Stage, Phase: p.Name, Samples: 10, Position: int64(10*i + 10)}
	if i == len(asideLadder)-1 {
		return d.SaveCheckpoint(at, nil, Bytes("w", fmt.Append(nil, "state", other)))
	}
	return d.SaveResult(at, nil, Bytes("w", fmt.Append(nil, p, other)))
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range tree(t, dir) {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if name != lockName {
			fmt.Fprintf(&b, "%s %x\n", name, sha256.Sum256(raw))
		}
	}
	return b.String()
}

// What was made after a lost result comes back once that is made again and is the same, wherever the process is killed.
func TestTakeOutAndPutBack(t *testing.T) {
	for kill := 0; ; kill++ {
		dir, d := finished(t)
		want := contents(t, dir)
		if err := os.RemoveAll(filepath.Join(dir, "stages", "8", "b", "result")); err != nil {
			t.Fatal(err)
		}
		n, killed := 0, false
		d.step = func(string) error {
			if n++; n > kill && !killed {
				killed = true
				return errFault
			}
			return nil
		}
		repair := func() error { // what a run does
			first, err := d.Result("8", "a")
			if err != nil {
				return err
			}
			if _, _, err := d.PutBack(first); err != nil {
				return err
			}
			r, err := d.Result("8", "b")
			if err != nil {
				var later []Phase
				for _, p := range asideLadder[2:] {
					result, checkpoint, err := d.Begun(p)
					if err != nil {
						return err
					}
					if result || checkpoint {
						later = append(later, p)
					}
				}
				if len(later) > 0 {
					if _, err := d.TakeOut(asideLadder[1], later); err != nil {
						return err
					}
				}
				if err := d.Rewind(first); err != nil {
					return err
				}
				if err := phase(t, d, 1, ""); err != nil {
					return err
				}
				if r, err = d.Result("8", "b"); err != nil {
					return err
				}
			}
			_, different, err := d.PutBack(r)
			if different != "" {
				return fmt.Errorf("%s differs", different)
			}
			return err
		}
		err := repair()
		if killed {
			if !errors.Is(err, errFault) {
				t.Fatalf("killed at %d: %v", kill, err)
			}
			d.Close()
			d = open(t, dir)
			if err := repair(); err != nil {
				t.Fatalf("after a kill at %d: %v", kill, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if got := contents(t, dir); got != want {
			t.Fatalf("killed at %d, got\n%swant\n%s", kill, got, want)
		}
		if !killed {
			if kill < 8 {
				t.Errorf("only %d changes on disk", kill)
			}
			return
		}
	}
}

// What does not follow from the result made again stays aside, with all its bytes, and exports go to it.
func TestPutBackRefusesAnother(t *testing.T) {
	dir, d := finished(t)
	if err := d.SaveArtifact(Exports, Bytes("4step", []byte("old"))); err != nil {
		t.Fatal(err)
	}
	kept, _ := os.ReadFile(filepath.Join(dir, "stages/4/a/result/w"))
	stats, _ := os.ReadFile(d.StatsPath())
	if err := os.RemoveAll(filepath.Join(dir, "stages", "8", "b", "result")); err != nil {
		t.Fatal(err)
	}
	folder, err := d.TakeOut(asideLadder[1], asideLadder[2:])
	if err != nil {
		t.Fatal(err)
	}
	first, _ := d.Result("8", "a")
	if err := d.Rewind(first); err != nil {
		t.Fatal(err)
	}
	if err := phase(t, d, 1, "0"); err != nil {
		t.Fatal(err)
	}
	r, _ := d.Result("8", "b")
	put, different, err := d.PutBack(r)
	if err != nil || put != 0 || different != folder {
		t.Fatalf("%d, %q, %v", put, different, err)
	}
	for name, want := range map[string]string{"stages/4/a/result/w": string(kept), statsName: string(stats), "exports/4step": "old"} {
		if got, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if names, err := d.Artifacts(Exports); err != nil || names != nil {
		t.Errorf("%v, %v", names, err)
	}
	if put, different, err := d.PutBack(r); put != 0 || different != "" || err != nil {
		t.Errorf("a second time: %d, %q, %v", put, different, err)
	}
}

func TestGoBack(t *testing.T) {
	dir, d := finished(t)
	if err := d.SaveArtifact(Report, Bytes("index.html", []byte("old"))); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d, err := Resume(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	first, err := d.Result("8", "a")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := d.GoBack(first, asideLadder[1], asideLadder[2:])
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(d.StatsPath()); strings.Count(string(b), "\n") != 1 {
		t.Errorf("statistics: %s", b)
	}
	for _, p := range asideLadder[1:] {
		if result, checkpoint, err := d.Begun(p); result || checkpoint || err != nil {
			t.Errorf("%s is still there", p)
		}
		if _, err := os.Stat(filepath.Join(folder, "stages", p.Stage, p.Name)); err != nil {
			t.Error(err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(folder, statsName)); strings.Count(string(b), "\n") != len(asideLadder) {
		t.Errorf("statistics aside: %s", b)
	}
	if b, _ := os.ReadFile(filepath.Join(folder, Report, "index.html")); string(b) != "old" {
		t.Errorf("%q", b)
	}
	if problems, err := Check(dir, asideLadder...); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	// A run that went back is not put back by itself.
	if put, different, err := d.PutBack(first); put != 0 || different != "" || err != nil {
		t.Errorf("%d, %q, %v", put, different, err)
	}
}

// Settings of what has not begun may change; the lineage notes it, whichever of the two files a kill comes between.
func TestSettingsMayChange(t *testing.T) {
	rules := Rules{MayChange: func(d *Dir, key string) (bool, error) {
		result, _, err := d.Begun(Phase{"8to4", "full"})
		return strings.HasPrefix(key, "stages.8to4.phases.full.") && !result, err
	}}
	changed := strings.Replace(config, "lr: 5.0e-6", "lr: 1e-6", 1)
	dir := scratch(t)
	d := open(t, dir)
	save(t, d, 100)
	d.Close()
	old, _ := os.ReadFile(filepath.Join(dir, configName))
	d, err := OpenWith(dir, []byte(changed), lineage, rules)
	if err != nil {
		t.Fatal(err)
	}
	want := []noted{{100, "stages.8to4.phases.full.lr", "5e-06", "1e-06"}}
	if got, _ := d.Config(); string(got) != changed || !slices.Equal(d.lineage.Changes, want) || len(d.Notes()) != 1 {
		t.Errorf("%s\n%+v\n%q", got, d.lineage.Changes, d.Notes())
	}
	d.Close()
	// Killed after the lineage, before the config.
	if err := os.WriteFile(filepath.Join(dir, configName), old, 0o666); err != nil {
		t.Fatal(err)
	}
	if problems, err := Check(dir); err != nil || len(problems) != 1 || !problems[0].Harmless {
		t.Errorf("%v, %v", problems, err)
	}
	if d, err = OpenWith(dir, []byte(changed), lineage, rules); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.lineage.Changes, want) {
		t.Errorf("%+v", d.lineage.Changes)
	}
	if problems, err := Check(dir); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
	// Of a phase with a result nothing may change.
	if err := d.SaveResult(Point{Stage: "8to4", Phase: "full", Samples: 100, Position: 200}, nil); err != nil {
		t.Fatal(err)
	}
	d.Close()
	var mismatch *ConfigMismatch
	if _, err := OpenWith(dir, []byte(config), lineage, rules); !errors.As(err, &mismatch) {
		t.Errorf("%v", err)
	}
}

// The machine is kept; another one is told of and noted once.
func TestMachineIsNoted(t *testing.T) {
	dir := scratch(t)
	on := func(threads string) (notes []string, changes int) {
		l := lineage
		l.Machine = map[string]string{"backend": "cpu", "CPU threads": threads}
		d, err := Open(dir, []byte(config), l)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		return d.Notes(), len(d.lineage.Changes)
	}
	for _, c := range []struct {
		threads      string
		notes, noted int
	}{{"8", 0, 0}, {"8", 0, 0}, {"2", 1, 1}, {"2", 0, 1}, {"8", 1, 2}} {
		if notes, changes := on(c.threads); len(notes) != c.notes || changes != c.noted {
			t.Errorf("%s threads: %q, %d noted", c.threads, notes, changes)
		}
	}
	l := lineage
	l.Inputs = map[string]string{"vae/config.json": "1"}
	if _, err := Open(dir, []byte(config), l); err != nil {
		t.Errorf("a run of an earlier version has no inputs to compare: %v", err)
	}
}
