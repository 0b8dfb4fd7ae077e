package rundir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func at(position int64) Point {
	return Point{Stage: "8to4", Phase: "lora", Samples: position, Position: position}
}

type meta struct {
	Step int64 `json:"step"`
}

// content is what file number i of the checkpoint at position holds.
func content(position int64, i int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%d/%d;", position, i)), 50)
}

func files(position int64) []File {
	return []File{
		Bytes("weights.safetensors", content(position, 0)),
		{Name: "moments.safetensors", WritePath: func(path string) error {
			return os.WriteFile(path, content(position, 1), 0o666)
		}},
		Bytes("state.json", content(position, 2)),
	}
}

func save(t *testing.T, d *Dir, position int64) {
	t.Helper()
	if err := d.SaveCheckpoint(at(position), meta{position / 10}, files(position)...); err != nil {
		t.Fatal(err)
	}
}

// latest is the position of the checkpoint that would be loaded, 0 for none;
// its content must be whole.
func latest(t *testing.T, d *Dir) (int64, []Skipped) {
	t.Helper()
	c, skipped, err := d.LatestCheckpoint()
	if err != nil {
		t.Fatal(err)
	}
	if c == nil {
		return 0, skipped
	}
	var m meta
	if err := c.Meta(&m); err != nil || m.Step != c.Position/10 {
		t.Errorf("meta %v, %v", m, err)
	}
	for i, name := range c.Files() {
		b, err := os.ReadFile(c.Path(name))
		if err != nil || !bytes.Equal(b, content(c.Position, i)) {
			t.Errorf("checkpoint %d would load a wrong %s (%v)", c.Position, name, err)
		}
	}
	if len(c.Files()) != 3 || c.SHA256("state.json") == "" {
		t.Errorf("files %v", c.Files())
	}
	return c.Position, skipped
}

func checkpoints(t *testing.T, d *Dir) (positions []int64) {
	t.Helper()
	found, _, err := d.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range found {
		positions = append(positions, c.Position)
	}
	return positions
}

func TestCheckpointsArePruned(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "run [1] *"))
	if p, skipped := latest(t, d); p != 0 || len(skipped) != 0 {
		t.Errorf("empty run: %d, %v", p, skipped)
	}
	for p := int64(100); p <= 500; p += 100 {
		save(t, d, p)
	}
	other := at(600)
	other.Phase = "full"
	if err := d.SaveCheckpoint(other, meta{60}, files(600)...); err != nil {
		t.Fatal(err)
	}
	if got := checkpoints(t, d); !slices.Equal(got, []int64{600, 500}) {
		t.Errorf("kept %v", got)
	}
	d.Keep = 3
	save(t, d, 700)
	called := false
	again := files(700)
	again[0] = File{Name: again[0].Name, Write: func(io.Writer) error { called = true; return nil }}
	if err := d.SaveCheckpoint(at(700), meta{70}, again...); err != nil || called {
		t.Errorf("the same point again: %v, written %v", err, called)
	}
	if err := d.SaveCheckpoint(at(700), meta{71}, files(700)...); err != nil { // other metadata replaces
		t.Fatal(err)
	}
	if c, _, _ := d.LatestCheckpoint(); !strings.Contains(string(c.manifest.Meta), "71") {
		t.Errorf("metadata %s", c.manifest.Meta)
	}
	if err := d.SaveCheckpoint(at(700), meta{70}, files(700)...); err != nil {
		t.Fatal(err)
	}
	if got := checkpoints(t, d); !slices.Equal(got, []int64{700, 600, 500}) {
		t.Errorf("kept %v", got)
	}
	if p, _ := latest(t, d); p != 700 {
		t.Errorf("latest %d", p)
	}
}

// Every way in which a file of a checkpoint can be cut, changed or lost makes
// the one before it be used, with a reason; Check names it too.
func TestDamagedCheckpointIsSkipped(t *testing.T) {
	names := []string{"weights.safetensors", "moments.safetensors", "state.json", manifestName}
	for _, name := range names {
		size := 0
		damage := map[string]func(path string) error{
			"delete":   os.Remove,
			"flip":     func(p string) error { return change(p, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) },
			"append":   func(p string) error { return change(p, func(b []byte) []byte { return append(b, 'x') }) },
			"empty":    func(p string) error { return os.Truncate(p, 0) },
			"cut half": func(p string) error { return change(p, func(b []byte) []byte { return b[:len(b)/2] }) },
			"cut last": func(p string) error { return change(p, func(b []byte) []byte { return b[:len(b)-2] }) },
			"other": func(p string) error {
				return change(p, func(b []byte) []byte { return bytes.Repeat([]byte{'7'}, len(b)) })
			},
		}
		for what, do := range damage {
			t.Run(name+" "+what, func(t *testing.T) {
				dir := scratch(t)
				d := open(t, dir)
				save(t, d, 100)
				save(t, d, 200)
				path := filepath.Join(d.PhasePath("8to4", "lora"), "checkpoints", "000000000200", name)
				if info, err := os.Stat(path); err != nil {
					t.Fatal(err)
				} else {
					size = int(info.Size())
				}
				if err := do(path); err != nil {
					t.Fatal(err)
				}
				d.Close()
				d = open(t, dir)
				p, skipped := latest(t, d)
				if p != 100 || len(skipped) != 1 || skipped[0].Why == "" {
					t.Fatalf("latest %d, skipped %v (of %d bytes)", p, skipped, size)
				}
				if unfinished := name == manifestName && what == "delete"; skipped[0].Unfinished != unfinished {
					t.Errorf("unfinished %v: %v", skipped[0].Unfinished, skipped)
				}
				if name != manifestName && !strings.Contains(skipped[0].Why, name) {
					t.Errorf("the reason does not name %s: %s", name, skipped[0].Why)
				}
				problems, err := Check(dir)
				if err != nil || len(problems) != 1 {
					t.Errorf("check: %v, %v", problems, err)
				}
				c, _, _ := d.LatestCheckpoint()
				if err := d.Rewind(c); err != nil {
					t.Fatal(err)
				}
				// Two more saves leave two sound ones, the damaged one not counted.
				save(t, d, 200)
				if got := checkpoints(t, d); !slices.Equal(got, []int64{200, 100}) {
					t.Errorf("kept %v", got)
				}
				if problems, err := Check(dir); err != nil || len(problems) != 0 {
					t.Errorf("check after continuing: %v, %v", problems, err)
				}
			})
		}
	}
}

func change(path string, how func([]byte) []byte) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, how(b), 0o666)
}

func TestManifestCutAnywhere(t *testing.T) {
	d := open(t, scratch(t))
	save(t, d, 100)
	save(t, d, 200)
	path := filepath.Join(d.PhasePath("8to4", "lora"), "checkpoints", "000000000200", manifestName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole)-1; n += 3 { // the last byte is the newline
		if err := os.WriteFile(path, whole[:n], 0o666); err != nil {
			t.Fatal(err)
		}
		if p, skipped := latest(t, d); p != 100 || len(skipped) != 1 {
			t.Fatalf("cut to %d bytes: latest %d, skipped %v", n, p, skipped)
		}
	}
}

// A flipped bit anywhere in a manifest is noticed, or changes nothing that is
// read from it.
func TestManifestFlippedAnywhere(t *testing.T) {
	d := open(t, scratch(t))
	save(t, d, 100)
	save(t, d, 200)
	path := filepath.Join(d.PhasePath("8to4", "lora"), "checkpoints", "000000000200", manifestName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for i := 0; i < len(whole); i += 3 {
		b := slices.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		if p, _ := latest(t, d); p == 100 {
			noticed++
		}
	}
	if noticed < len(whole)/3*3/4 {
		t.Errorf("%d of %d noticed", noticed, len(whole))
	}
}

// A manifest may not send a reader outside of its folder.
func TestManifestOutside(t *testing.T) {
	d := open(t, scratch(t))
	save(t, d, 100)
	path := filepath.Join(d.PhasePath("8to4", "lora"), "checkpoints", "000000000100", manifestName)
	folder := filepath.Dir(path)
	m, err := readManifest(folder)
	if err != nil {
		t.Fatal(err)
	}
	m.Files[2].Name = "../../state"
	if err := m.write(folder); err != nil {
		t.Fatal(err)
	}
	if p, skipped := latest(t, d); p != 0 || len(skipped) != 1 || !strings.Contains(skipped[0].Why, "outside") {
		t.Errorf("%d %v", p, skipped)
	}
}

var errFault = errors.New("no space left on device")

// A writer that fails after every possible number of bytes leaves the older
// checkpoints and nothing of the new one.
func TestSaveWithFailingWriter(t *testing.T) {
	dir := scratch(t)
	d := open(t, dir)
	save(t, d, 100)
	save(t, d, 200)
	before := tree(t, dir)
	for n := range 40 {
		for _, f := range []File{
			{Name: "state.json", Write: func(w io.Writer) error {
				w.Write(make([]byte, n))
				return errFault
			}},
			{Name: "state.json", WritePath: func(path string) error {
				os.WriteFile(path, make([]byte, n), 0o666)
				return errFault
			}},
		} {
			err := d.SaveCheckpoint(at(300), nil, Bytes("weights.safetensors", content(300, 0)), f)
			if !errors.Is(err, errFault) {
				t.Fatalf("got %v", err)
			}
		}
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("left %v", after)
	}
	for _, bad := range [][]File{
		{Bytes("../x", nil)}, {Bytes("manifest.json", nil)}, {Bytes("", nil)}, {{Name: "x"}},
		{Bytes("x", nil), Bytes("x", nil)}, {Bytes(".x", nil)}, {Bytes("a/b", nil)},
	} {
		if err := d.SaveCheckpoint(at(300), nil, bad...); err == nil {
			t.Errorf("%q must be refused", bad[0].Name)
		}
	}
	if err := d.SaveCheckpoint(Point{Stage: "..", Phase: "x"}, nil); err == nil {
		t.Error("stage .. must be refused")
	}
	if err := d.SaveCheckpoint(at(300), func() {}); err == nil {
		t.Error("metadata that is not JSON must be refused")
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("left %v", after)
	}
}

func TestResult(t *testing.T) {
	dir := scratch(t)
	d := open(t, dir)
	if _, err := d.Result("8to4", "lora"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no result yet: %v", err)
	}
	if err := d.SaveResult(at(100), meta{10}, files(100)...); err != nil {
		t.Fatal(err)
	}
	for p := int64(200); p < 600; p += 100 { // pruning leaves results alone
		save(t, d, p)
	}
	r, err := d.Result("8to4", "lora")
	if err != nil || r.Position != 100 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := d.SaveResult(at(100), meta{10}, files(100)...); err == nil {
		t.Error("a sound result must not be overwritten")
	}
	if err := change(r.Path("state.json"), func(b []byte) []byte { b[0]++; return b }); err != nil {
		t.Fatal(err)
	}
	var damaged *Damaged
	if _, err := d.Result("8to4", "lora"); !errors.As(err, &damaged) || !strings.Contains(err.Error(), "state.json") {
		t.Errorf("damaged result: %v", err)
	}
	if problems, err := Check(dir); err != nil || len(problems) != 1 || problems[0].Path != "stages/8to4/lora/result" {
		t.Errorf("check: %v, %v", problems, err)
	}
	if err := d.SaveResult(at(100), meta{10}, files(100)...); err != nil {
		t.Errorf("a damaged result is replaced: %v", err)
	}
	if err := os.Remove(filepath.Join(d.PhasePath("8to4", "lora"), "result", manifestName)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Result("8to4", "lora"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unfinished result: %v", err)
	}
}

func TestRewind(t *testing.T) {
	dir := scratch(t)
	d := open(t, dir)
	line := func(s string) {
		f, err := os.OpenFile(d.StatsPath(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	stats := func() string {
		b, _ := os.ReadFile(d.StatsPath())
		return string(b)
	}
	line("{\"p\":100}\n")
	save(t, d, 100)
	// Records at the same position but after the checkpoint go too.
	line("{\"p\":100,\"kind\":\"phase\"}\n{\"p\":200}\n")
	save(t, d, 200)
	line("{\"p\":300}\n{\"p\":4")
	c, _, _ := d.LatestCheckpoint()
	if err := d.Rewind(c); err != nil {
		t.Fatal(err)
	}
	if want := "{\"p\":100}\n{\"p\":100,\"kind\":\"phase\"}\n{\"p\":200}\n"; stats() != want {
		t.Errorf("stats %q", stats())
	}
	// To an older one: the newer is gone, as its records are.
	found, _, _ := d.list()
	if err := d.Rewind(found[1]); err != nil {
		t.Fatal(err)
	}
	if got := checkpoints(t, d); !slices.Equal(got, []int64{100}) || stats() != "{\"p\":100}\n" {
		t.Errorf("%v, stats %q", got, stats())
	}
	for _, shorter := range []string{"", "{}\n", "{\"p\":1000}"} {
		if err := os.WriteFile(d.StatsPath(), []byte(shorter), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := d.Rewind(found[1]); err == nil || !strings.Contains(err.Error(), "changed from outside") {
			t.Errorf("stats %q: %v", shorter, err)
		}
	}
	if err := d.SaveCheckpoint(at(300), nil); err == nil {
		t.Error("a checkpoint after half a line must be refused")
	}
	if err := d.Rewind(nil); err != nil || stats() != "" || len(checkpoints(t, d)) != 0 {
		t.Errorf("to the start: %v, %q", err, stats())
	}
}
