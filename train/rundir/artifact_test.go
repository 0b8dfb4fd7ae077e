package rundir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestArtifacts(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	v, err := View(dir)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := v.Artifacts(Exports); err != nil || names != nil {
		t.Errorf("none yet: %v, %v", names, err)
	}
	var wg sync.WaitGroup
	for i, from := range []*Dir{d, v, d, v, d, v} {
		wg.Go(func() {
			if err := from.SaveArtifact(Exports, Bytes(fmt.Sprintf("%dstep/unet/w", i), []byte{byte(i)})); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	names, err := v.Artifacts(Exports)
	if err != nil || len(names) != 6 || names[5] != "5step/unet/w" {
		t.Fatalf("%v, %v", names, err)
	}
	if b, err := os.ReadFile(v.ArtifactPath(Exports, names[5])); err != nil || b[0] != 5 {
		t.Errorf("%v %v", b, err)
	}
	clean := func() {
		t.Helper()
		if problems, err := Check(dir); err != nil || len(problems) != 0 {
			t.Errorf("check: %v, %v", problems, err)
		}
	}
	clean()
	// Killed before each change on disk while replacing: what is listed is true.
	for kill := 0; ; kill++ {
		n := 0
		d.step = func(string) error {
			if n++; n > kill {
				return errFault
			}
			return nil
		}
		err := d.SaveArtifact(Exports, Bytes("5step/unet/w", fmt.Appendf(nil, "new %d", kill)))
		d.step = nil
		problems, cerr := Check(dir)
		if cerr != nil || slices.ContainsFunc(problems, func(p Problem) bool { return !p.Harmless }) {
			t.Errorf("killed at %d: %v, %v", kill, problems, cerr)
		}
		// What was not saved to the end is not there for its reader, also where the file lies in place already.
		if have, herr := d.HasArtifact(Exports, "5step/unet/w"); herr != nil || have != (kill == 0 || err == nil) {
			t.Errorf("killed at %d: listed %v, %v", kill, have, herr)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errFault) {
			t.Fatal(err)
		}
	}
	clean()
	err = d.SaveArtifact(Report, File{Name: "index.html", Write: func(w io.Writer) error {
		io.WriteString(w, "<html>")
		return errFault
	}})
	if !errors.Is(err, errFault) {
		t.Errorf("got %v", err)
	}
	clean()
	for _, bad := range [][2]string{{"events", "x"}, {Exports, "../x"}, {Exports, "manifest.json"}, {Exports, "a//b"}, {Exports, "/a"}, {Exports, ".a"}} {
		if err := d.SaveArtifact(bad[0], Bytes(bad[1], nil)); err == nil {
			t.Errorf("%q must be refused", bad)
		}
	}
	if err := os.Remove(d.ArtifactPath(Exports, "1step/unet/w")); err != nil {
		t.Fatal(err)
	}
	if have, err := d.HasArtifact(Exports, "1step/unet/w"); err != nil || have {
		t.Errorf("a deleted file is still there: %v", err)
	}
	if err := d.SaveArtifact(Exports, Bytes("1step/unet/w", nil)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.ArtifactPath(Exports, "0step/unet/w"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	problems, err := Check(dir)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), "0step/unet/w has SHA-256") {
		t.Errorf("check: %v, %v", problems, err)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	save(t, d, 100)
	write(t, d.StatsPath(), "{}\n{}\nnot json\n")
	write(t, d.TimingPath(), "{}\n{\"half")
	write(t, d.Path(configName), config+"extra: 1\n")
	write(t, d.Path("sheets", "x.png"), "stray")
	write(t, d.Path("stages", "8to4", "lora", ".fewstep-tmp-77"), "")
	write(t, d.Path("stages", "8to4", "lora", "checkpoints", "000000000100", "more"), "")
	problems, err := Check(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.String())
	}
	want := []string{
		"config.yaml: was changed after the run started: its SHA-256 is not the one in lineage.json",
		"sheets: no manifest.json: it was never finished (harmless)",
		"stages/8to4/lora/.fewstep-tmp-77: left by an interrupted save (harmless)",
		"stages/8to4/lora/checkpoints/000000000100/more: is not in the manifest (harmless)",
		"stats.jsonl: line 3 is not JSON",
		"timing.jsonl: line 2 is not finished; the run cuts it off when it continues (harmless)",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := Check(t.TempDir()); err == nil {
		t.Error("an empty directory is no run")
	}
}
