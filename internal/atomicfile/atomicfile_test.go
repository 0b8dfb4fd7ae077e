package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestWriteReplacesAndCreatesParents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "file.bin")
	big := bytes.Repeat([]byte("0123456789"), 300_000) // beyond the buffer
	for _, content := range [][]byte{[]byte("first"), big, nil} {
		if err := WriteBytes(path, content); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("read back %d bytes, want %d (%v)", len(got), len(content), err)
		}
	}
	if names := entries(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("folder holds %v, want the file alone", names)
	}
}

func TestFailedFillLeavesOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := WriteBytes(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := Write(path, func(w io.Writer) error {
		w.Write(make([]byte, 3<<20))
		return boom
	})
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one that wraps boom and names the file", err)
	}
	func() {
		defer func() { recover() }()
		Write(path, func(io.Writer) error { panic("boom") })
	}()
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("content %q, want the old one", got)
	}
	if names := entries(t, dir); len(names) != 1 {
		t.Errorf("folder holds %v, want the file alone", names)
	}
}

func TestWriteKeepsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteBytes(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for errno, hint := range map[syscall.Errno]string{
		syscall.ENOSPC: "no space left",
		syscall.EDQUOT: "quota",
		syscall.EFBIG:  "ulimit -f",
		syscall.EACCES: "no permission",
		syscall.EPERM:  "no permission",
		syscall.EROFS:  "read-only",
	} {
		err := Write(path, func(io.Writer) error { return fmt.Errorf("write x: %w", errno) })
		if !errors.Is(err, errno) || !strings.Contains(err.Error(), hint) {
			t.Errorf("%v: error %q lacks %q", errno, err, hint)
		}
	}
	if err := WriteBytes(path, nil); err != nil {
		t.Fatal(err)
	}
	err := WriteBytes(filepath.Join(path, "below"), nil)
	if err == nil || !strings.Contains(err.Error(), "not a folder") {
		t.Errorf("writing below a file: %v", err)
	}
}

// TestWriteBeyondLimit lets the operating system refuse bytes halfway.
func TestWriteBeyondLimit(t *testing.T) {
	if path := os.Getenv("ATOMICFILE_TEST_LIMIT"); path != "" {
		if err := WriteBytes(path, make([]byte, 4*bufferBytes)); err != nil {
			fmt.Print(err)
		}
		os.Exit(0)
	}
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no shell to set the limit")
	}
	path := filepath.Join(t.TempDir(), "file")
	if err := WriteBytes(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(sh, "-c", `ulimit -f 100; exec "$0" -test.run='^TestWriteBeyondLimit$'`, os.Args[0])
	child.Env = append(os.Environ(), "ATOMICFILE_TEST_LIMIT="+path)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ulimit -f") || !strings.Contains(string(out), path) {
		t.Errorf("child said %q (%v), want the file and the limit", out, err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("content %q, want the old one", got)
	}
	if names := entries(t, filepath.Dir(path)); len(names) != 1 {
		t.Errorf("folder holds %v, want the file alone", names)
	}
}

func TestWriteWithoutPermission(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	err := WriteBytes(filepath.Join(dir, "file"), nil)
	if err == nil || !strings.Contains(err.Error(), "no permission") {
		t.Errorf("error %v, want no permission", err)
	}
}

func TestCleanTemp(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{tempPrefix + "0123", tempPrefix + "4567", "keep", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := CleanTemp(dir); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, dir); fmt.Sprint(got) != "[.hidden keep]" {
		t.Errorf("left %v, want .hidden and keep", got)
	}
	if err := CleanTemp(filepath.Join(dir, "missing")); err != nil {
		t.Errorf("missing folder: %v", err)
	}
}

// What a killed writer left, file or folder, goes with the next write beside it; what a living one holds stays.
func TestNextWriterSweeps(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-time.Hour)
	make := func(name string, folder bool) string {
		path := filepath.Join(dir, tempPrefix+name)
		err := os.WriteFile(path, nil, 0o666)
		if folder {
			err = errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "unet"), 0o777))
		}
		if err := errors.Join(err, os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	make("dead", false)
	make("dead-folder", true)
	f, err := os.Open(make("living", false))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hold(f)
	if err := os.WriteFile(filepath.Join(dir, tempPrefix+"young"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := WriteBytes(filepath.Join(dir, "file"), nil); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(entries(t, dir)), fmt.Sprintf("[%sliving %syoung file]", tempPrefix, tempPrefix); got != want {
		t.Errorf("left %v, want %v", got, want)
	}
}

// TestKilledWriter kills a child at different moments of its endless rewriting
// and finds a complete file each time.
func TestKilledWriter(t *testing.T) {
	const size = 1 << 20
	if path := os.Getenv("ATOMICFILE_TEST_PATH"); path != "" {
		for i := byte(0); ; i++ {
			if err := WriteBytes(path, bytes.Repeat([]byte{i}, size)); err != nil {
				os.Exit(1)
			}
			os.Stdout.WriteString("x")
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for round := range 5 {
		child := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
		child.Env = append(os.Environ(), "ATOMICFILE_TEST_PATH="+path)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Errorf("child wrote nothing: %v", err)
		}
		time.Sleep(time.Duration(round*3) * time.Millisecond)
		child.Process.Kill()
		child.Wait()
		got, err := os.ReadFile(path)
		if err != nil || len(got) != size || !bytes.Equal(got, bytes.Repeat(got[:1], size)) {
			t.Fatalf("round %d: %d bytes, torn or missing (%v)", round, len(got), err)
		}
	}
	if err := CleanTemp(dir); err != nil {
		t.Fatal(err)
	}
	if names := entries(t, dir); len(names) != 1 {
		t.Errorf("folder holds %v, want the file alone", names)
	}
}
