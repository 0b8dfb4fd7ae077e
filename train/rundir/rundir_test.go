package rundir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const config = `name: demo
seed: 7
stages:
  - name: 8to4
    phases:
      - {name: lora, lr: 1e-5}
      - {name: full, lr: 5.0e-6}
progress: {interval: 10}
`

var lineage = Lineage{FewstepVersion: "v0.1.0", BaseWeights: "aa", DataManifest: "bb"}

func open(t *testing.T, dir string) *Dir {
	t.Helper()
	d, err := Open(dir, []byte(config), lineage, "progress")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOpenCreatesAndContinues(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "run") + "/"
	d := open(t, dir)
	if !d.New() {
		t.Error("a created directory must be new")
	}
	d.Close()
	d = open(t, dir)
	if d.New() || len(d.Notes()) != 0 {
		t.Errorf("continued: new %v, notes %q", d.New(), d.Notes())
	}
	if b, err := d.Config(); err != nil || string(b) != config {
		t.Errorf("config %q, %v", b, err)
	}
	d.Close()
	newer := lineage
	newer.FewstepVersion = "v0.2.0"
	d, err := Open(dir, []byte(config), newer)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if len(d.Notes()) != 1 || !strings.Contains(d.Notes()[0], "v0.2.0") {
		t.Errorf("another version must be noted: %q", d.Notes())
	}
	if d.Lineage().FewstepVersion != "v0.1.0" {
		t.Errorf("lineage %+v", d.Lineage())
	}
}

func TestOpenRefusesAnotherConfig(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	for _, c := range []struct {
		name, old, new string
		keys           []string
	}{
		{"same numbers spelled otherwise", "5.0e-6", "0.000005", nil},
		{"allowed key", "interval: 10", "interval: 20", nil},
		{"scalar", "seed: 7", "seed: 8", []string{"seed"}},
		{"string is not the number", "seed: 7", `seed: "7"`, []string{"seed"}},
		{"named list element", "lr: 1e-5", "lr: 2e-5", []string{"stages.8to4.phases.lora.lr"}},
		{"key added and one gone", "name: demo\nseed: 7", "name: demo\nsede: 7", []string{"sede", "seed"}},
		{"phase left out", "      - {name: lora, lr: 1e-5}\n", "", []string{"stages.8to4.phases.lora"}},
		{"phases re-ordered", "      - {name: lora, lr: 1e-5}\n      - {name: full, lr: 5.0e-6}\n",
			"      - {name: full, lr: 5.0e-6}\n      - {name: lora, lr: 1e-5}\n", []string{"stages.8to4.phases"}},
		{"null for a list", "stages:\n  - name: 8to4", "stages:\nother:\n  - name: 8to4", []string{"other", "stages"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := strings.Replace(config, c.old, c.new, 1)
			if changed == config {
				t.Fatal("the test changes nothing")
			}
			d, err := Open(dir, []byte(changed), lineage, "progress")
			if c.keys == nil {
				if err != nil {
					t.Fatal(err)
				}
				d.Close()
				return
			}
			var m *ConfigMismatch
			if !errors.As(err, &m) || !slices.Equal(m.Keys, c.keys) {
				t.Fatalf("want keys %q, got %v", c.keys, err)
			}
			for _, change := range m.Changes {
				if !strings.Contains(err.Error(), change.Key+": "+change.Old+" → "+change.New) {
					t.Errorf("message lacks %v:\n%v", change, err)
				}
			}
		})
	}
	if b, _ := os.ReadFile(filepath.Join(dir, configName)); string(b) != config {
		t.Errorf("a refused or allowed config changed config.yaml:\n%s", b)
	}
}

func TestOpenRefusesOtherInputs(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	other := lineage
	other.BaseWeights = "cc"
	_, err := Open(dir, []byte(config), other, "progress")
	var m *LineageMismatch
	if !errors.As(err, &m) || len(m.Changes) != 1 || m.Changes[0].Key != "base_weights_sha256" {
		t.Fatalf("got %v", err)
	}
}

func TestOpenLeavesForeignFoldersAlone(t *testing.T) {
	for _, files := range [][]string{{"thesis.tex"}, {"config.yaml"}, {"config.yaml", "events/x"}, {".fewstep-tmp-1", "notes"}} {
		dir := t.TempDir()
		for _, f := range files {
			write(t, filepath.Join(dir, f), "mine")
		}
		_, err := Open(dir, []byte(config), lineage)
		var n *NotRunDir
		if !errors.As(err, &n) {
			t.Errorf("%v: got %v", files, err)
		}
		if got := tree(t, dir); !slices.Equal(got, files) {
			t.Errorf("%v became %v", files, got)
		}
		if _, err := View(dir); !errors.As(err, &n) {
			t.Errorf("View of %v: got %v", files, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "x"), []byte("a: ["), lineage); err == nil {
		t.Error("broken YAML must be refused")
	}
	file := filepath.Join(t.TempDir(), "f")
	write(t, file, "x")
	if _, err := Open(file, []byte(config), lineage); err == nil {
		t.Error("a file must be refused")
	}
}

// Whatever part of a creation a killed Open had done, the next one finishes it.
func TestOpenFinishesInterruptedCreation(t *testing.T) {
	whole := t.TempDir()
	open(t, whole).Close()
	states := [][]string{
		{lockName},
		{lockName, ".fewstep-tmp-1234"},
		{lockName, lineageName},
		{lockName, lineageName, "events/"},
		{lockName, lineageName, "events/", "stages/", "exports/", "sheets/", "report/", ".fewstep-tmp-99"},
	}
	for _, state := range states {
		dir := t.TempDir()
		for _, f := range state {
			if strings.HasSuffix(f, "/") {
				if err := os.Mkdir(filepath.Join(dir, f), 0o777); err != nil {
					t.Fatal(err)
				}
				continue
			}
			b, _ := os.ReadFile(filepath.Join(whole, f))
			write(t, filepath.Join(dir, f), string(b))
		}
		d := open(t, dir)
		if !d.New() {
			t.Errorf("%v: not new", state)
		}
		d.Close()
		if got, want := tree(t, dir), tree(t, whole); !slices.Equal(got, want) {
			t.Errorf("%v became %v, want %v", state, got, want)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	_, err := Open(dir, []byte(config), lineage)
	var l *Locked
	if !errors.As(err, &l) || l.PID != os.Getpid() {
		t.Fatalf("got %v", err)
	}
	if v, err := View(dir); err != nil {
		t.Error(err)
	} else if err := v.SaveCheckpoint(Point{Stage: "a", Phase: "b"}, nil); err != ErrReadOnly {
		t.Errorf("got %v", err)
	}
	d.Close()
	open(t, dir)
}

// scratch is a folder for tests that save very often: in memory where there is
// such a file system, because syncing is slow on a busy disk.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "rundir-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

// tree lists the files below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}
