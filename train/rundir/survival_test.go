package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"fewstep/model/weights"
)

// unreadable makes reading path fail with an error that is not about its bytes, and returns what undoes that. A link to itself
// cannot be followed: ELOOP, as EIO would be, says nothing about what lies there.
func unreadable(t *testing.T, path string) (readable func()) {
	t.Helper()
	if err := errors.Join(os.Rename(path, path+".real"), os.Symlink(filepath.Base(path), path)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.Remove(path), os.Rename(path+".real", path)); err != nil {
			t.Fatal(err)
		}
	}
}

func record(t *testing.T, d *Dir, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(d.StatsPath(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range lines {
		if _, err := f.WriteString(l + "\n"); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be read for a moment is not damage: nothing is passed over, nothing changes, and the next start is as before.
func TestPassingErrorIsNotDamage(t *testing.T) {
	dir := scratch(t)
	d := open(t, dir)
	record(t, d, `{"p":100}`)
	if err := d.SaveResult(Point{Stage: "8to4", Phase: "first", Samples: 50, Position: 50}, meta{5}, files(50)...); err != nil {
		t.Fatal(err)
	}
	save(t, d, 100)
	save(t, d, 200)
	d.Close()
	stage := filepath.Join(dir, "stages", "8to4")
	newest := filepath.Join(stage, "lora", "checkpoints", "000000000200")
	result := filepath.Join(stage, "first", "result")
	for _, path := range []string{
		filepath.Join(dir, "stages"), stage, filepath.Join(stage, "lora"), filepath.Join(stage, "lora", "checkpoints"), newest,
		filepath.Join(newest, manifestName), filepath.Join(newest, "weights.safetensors"), filepath.Join(newest, "state.json"),
		filepath.Join(dir, statsName), filepath.Join(result, manifestName), filepath.Join(result, "weights.safetensors"), filepath.Join(dir, lineageName), filepath.Join(dir, configName),
	} {
		readable := unreadable(t, path)
		before := tree(t, dir)
		err := func() error {
			d, err := Open(dir, []byte(config), lineage, "progress")
			if err != nil {
				return err
			}
			defer d.Close()
			if _, err := d.Result("8to4", "first"); err != nil {
				return err
			}
			c, skipped, err := d.LatestCheckpoint()
			if err != nil {
				return err
			}
			if len(skipped) > 0 {
				t.Errorf("%s: passed over %v", path, skipped)
			}
			return d.Rewind(c)
		}()
		if !errors.Is(err, syscall.ELOOP) || unsound(err) {
			t.Errorf("%s: %v", path, err)
		}
		if after := tree(t, dir); !slices.Equal(before, after) {
			t.Errorf("%s: %v became %v", path, before, after)
		}
		readable()
		d := open(t, dir)
		if p, skipped := latest(t, d); p != 200 || len(skipped) > 0 {
			t.Errorf("%s: afterwards %d, %v", path, p, skipped)
		}
		d.Close()
	}
}

// Damaged checkpoints are moved, with every byte that they have left.
func TestDamagedIsSetAside(t *testing.T) {
	dir := scratch(t)
	d := open(t, dir)
	for p := int64(100); p <= 300; p += 100 {
		save(t, d, p)
	}
	d.Close()
	damaged := filepath.Join("stages", "8to4", "lora", "checkpoints", "000000000300")
	if err := change(filepath.Join(dir, damaged, "state.json"), func(b []byte) []byte { b[0]++; return b }); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(filepath.Join(dir, damaged, "state.json"))
	d = open(t, dir)
	var told []string
	d.Told = func(s string) { told = append(told, s) }
	c, _, err := d.LatestCheckpoint()
	if err != nil || c.Position != 200 {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := d.Rewind(c); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, asideFolder, "001", damaged, "state.json")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v", err)
	}
	if len(told) != 1 || !strings.Contains(told[0], "moved to aside/001") {
		t.Errorf("told %q", told)
	}
	if problems, err := Check(dir); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// A run directory, its lock or its statistics that are pulled away are noticed by the next save, which leaves nothing behind.
func TestPulledAway(t *testing.T) {
	for what, pull := range map[string]func(dir string) error{
		"renamed":            func(dir string) error { return os.Rename(dir, dir+"-moved") },
		"removed":            os.RemoveAll,
		"replaced":           func(dir string) error { return errors.Join(os.Rename(dir, dir+"-moved"), os.Mkdir(dir, 0o777)) },
		"lock deleted":       func(dir string) error { return os.Remove(filepath.Join(dir, lockName)) },
		"statistics deleted": func(dir string) error { return os.Remove(filepath.Join(dir, statsName)) },
		"statistics rotated": func(dir string) error { return os.Rename(filepath.Join(dir, statsName), filepath.Join(dir, "stats.1")) },
		"statistics cut":     func(dir string) error { return os.Truncate(filepath.Join(dir, statsName), 0) },
		"statistics replaced": func(dir string) error {
			p := filepath.Join(dir, statsName)
			return errors.Join(os.Rename(p, p+".1"), os.WriteFile(p, []byte("{\"p\":100}\n{\"p\":200}\n"), 0o666))
		},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(scratch(t), "run")
			d := open(t, dir)
			if err := d.Rewind(nil); err != nil {
				t.Fatal(err)
			}
			record(t, d, `{"p":100}`)
			save(t, d, 100)
			record(t, d, `{"p":200}`)
			if err := pull(dir); err != nil {
				t.Fatal(err)
			}
			before, _ := filepath.Glob(dir + "*/*/*/*/*/*")
			var gone *Gone
			if err := d.SaveCheckpoint(at(200), meta{20}, files(200)...); !errors.As(err, &gone) {
				t.Errorf("checkpoint: %v", err)
			}
			if err := d.SaveResult(at(200), meta{20}, files(200)...); !errors.As(err, &gone) {
				t.Errorf("result: %v", err)
			}
			if !strings.HasPrefix(what, "stat") {
				if err := d.SaveArtifact(Exports, Bytes("x", nil)); !errors.As(err, &gone) {
					t.Errorf("artifact: %v", err)
				}
			}
			if after, _ := filepath.Glob(dir + "*/*/*/*/*/*"); !slices.Equal(before, after) {
				t.Errorf("%v became %v", before, after)
			}
			if _, err := os.Stat(dir); what == "renamed" && err == nil || what == "removed" && err == nil {
				t.Error("the folder was made anew")
			}
		})
	}
}

// A directory that is moved away while a checkpoint, a result or an artifact is being written is not made anew either.
func TestPulledAwayInTheMiddle(t *testing.T) {
	for what, save := range map[string]func(d *Dir, files ...File) error{
		"checkpoint": func(d *Dir, files ...File) error { return d.SaveCheckpoint(at(200), nil, files...) },
		"result":     func(d *Dir, files ...File) error { return d.SaveResult(at(200), nil, files...) },
		"artifact":   func(d *Dir, files ...File) error { return d.SaveArtifact(Exports, files[1]) },
	} {
		for _, later := range []bool{false, true} { // before the file's own folder is opened, and after
			dir := filepath.Join(scratch(t), "run")
			d := open(t, dir)
			move := func() {
				if err := os.Rename(dir, dir+"-moved"); err != nil {
					t.Fatal(err)
				}
			}
			var gone *Gone
			err := save(d, Bytes("a", []byte("a")), File{Name: "b", WritePath: func(path string) error {
				if !later {
					move()
				}
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte("b"), 0o666)); err != nil {
					return err
				}
				if later {
					move()
				}
				return nil
			}})
			if !errors.As(err, &gone) {
				t.Errorf("%s, %v: %v", what, later, err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s, %v: the folder was made anew", what, later)
			}
			d.Close()
			if problems, err := Check(dir + "-moved"); err != nil || slices.ContainsFunc(problems, func(p Problem) bool { return !p.Harmless }) {
				t.Errorf("%s, %v: %v, %v", what, later, problems, err)
			}
		}
	}
}

// A disk that cannot be written lets what is there be read, and says so to whom wants to write.
func TestReadOnlyDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("this process may not mount: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	run := filepath.Join(dir, "run")
	d := open(t, run)
	if err := d.SaveResult(at(100), meta{10}, files(100)...); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	d = open(t, run)
	defer d.Close()
	if !errors.Is(d.ReadOnly(), syscall.EROFS) {
		t.Errorf("%v", d.ReadOnly())
	}
	if r, err := d.Result("8to4", "lora"); err != nil || r.Position != 100 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, err := range []error{d.SaveCheckpoint(at(200), nil), d.SaveArtifact(Exports, Bytes("x", nil)), d.Rewind(nil)} {
		if !errors.Is(err, syscall.EROFS) && !errors.Is(err, ErrReadOnly) {
			t.Errorf("%v", err)
		}
	}
	if _, err := Open(filepath.Join(dir, "new"), []byte(config), lineage); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a new run: %v", err)
	}
}

// check finds every byte that changed and every file and folder that is gone.
func TestCheckFinds(t *testing.T) {
	nan := func(path string) error {
		raw, _ := weights.Encode([]float32{1, float32(math.NaN())}, weights.F32)
		return weights.Write(path, []weights.Tensor{{Name: "w", DType: weights.F32, Shape: []int{2}, Data: raw}}, nil)
	}
	ladder := []Phase{{"8to4", "lora"}, {"8to4", "full"}, {"4to2", "lora"}}
	make := func(t *testing.T) (string, *Dir) {
		dir := scratch(t)
		d := open(t, dir)
		for i, p := range ladder {
			record(t, d, fmt.Sprintf(`{"stage":%q,"phase":%q,"values":{"loss":0.25}}`, p.Stage, p.Name))
			at := Point{Stage: p.Stage, Phase: p.Name, Samples: 100, Position: int64(100 * (i + 1))}
			if err := d.SaveResult(at, nil, Bytes("w", []byte{byte(i)})); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(d.WriteSource(map[string]string{"digest": "abc"}), d.SaveArtifact(Exports, Bytes("x", []byte("x")))); err != nil {
			t.Fatal(err)
		}
		if problems, err := Check(dir, ladder...); err != nil || len(problems) > 0 {
			t.Fatalf("%v, %v", problems, err)
		}
		return dir, d
	}
	swap := func(old, new string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) }
	}
	for what, c := range map[string]struct {
		do   func(dir string, d *Dir) error
		want string
	}{
		"a value of the statistics": {func(dir string, _ *Dir) error { return change(filepath.Join(dir, statsName), swap("0.25", "0.26")) }, "stats.jsonl: its first"},
		"their length":              {func(dir string, _ *Dir) error { return os.Truncate(filepath.Join(dir, statsName), 10) }, "stats.jsonl: has 10 bytes"},
		"all of them":               {func(dir string, _ *Dir) error { return os.Remove(filepath.Join(dir, statsName)) }, "stats.jsonl: has 0 bytes"},
		"lineage":                   {func(dir string, _ *Dir) error { return change(filepath.Join(dir, lineageName), swap(`"aa"`, `"ab"`)) }, "lineage.json: "},
		"data set":                  {func(dir string, _ *Dir) error { return change(filepath.Join(dir, sourceName), swap("abc", "abd")) }, "source.json: "},
		"a result":                  {func(dir string, _ *Dir) error { return os.RemoveAll(filepath.Join(dir, "stages/8to4/full")) }, "stages/8to4/full/result: is missing"},
		"the first":                 {func(dir string, _ *Dir) error { return os.RemoveAll(filepath.Join(dir, "stages/8to4/lora/result")) }, "stages/8to4/lora/result: is missing"},
		"all results":               {func(dir string, _ *Dir) error { return os.RemoveAll(filepath.Join(dir, "stages")) }, "stages/8to4/full/result: is missing"},
		"exports":                   {func(dir string, _ *Dir) error { return os.RemoveAll(filepath.Join(dir, Exports)) }, "exports: the folder is missing"},
		"an export emptied":         {func(dir string, _ *Dir) error { return os.Truncate(filepath.Join(dir, Exports, "x"), 0) }, "exports: x has 0 bytes"},
		"a checkpoint of NaN": {func(_ string, d *Dir) error {
			return d.SaveCheckpoint(at(400), nil, File{Name: "student.safetensors", WritePath: nan})
		}, `student.safetensors: tensor "w" holds NaN`},
	} {
		t.Run(what, func(t *testing.T) {
			dir, d := make(t)
			if err := c.do(dir, d); err != nil {
				t.Fatal(err)
			}
			problems, err := Check(dir, ladder...)
			if err != nil || !slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.String(), c.want) && !p.Harmless }) {
				t.Errorf("%v, %v", problems, err)
			}
		})
	}
}

// Statistics that changed since are no ground to go on from: Rewind changes nothing.
func TestRewindComparesStatistics(t *testing.T) {
	dir := scratch(t)
	d := open(t, dir)
	record(t, d, `{"loss":0.25}`)
	save(t, d, 100)
	record(t, d, `{"loss":0.5}`)
	if err := change(d.StatsPath(), func(b []byte) []byte { b[9]++; return b }); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	c, _, _ := d.LatestCheckpoint()
	if err := d.Rewind(c); err == nil || !strings.Contains(err.Error(), "changed from outside") {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(d.StatsPath()); bytes.Count(b, []byte("\n")) != 2 || !slices.Equal(before, tree(t, dir)) {
		t.Error("something was changed")
	}
}
