package interop

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// diffusersSide is a running diffusers_side.py.
type diffusersSide struct {
	tasks   io.WriteCloser
	answers *bufio.Reader
}

func startDiffusers(t *testing.T, python string) *diffusersSide {
	t.Helper()
	cmd := exec.Command(python, filepath.Join("testdata", "diffusers_side.py"))
	cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	log, err := os.Create(filepath.Join(t.TempDir(), "diffusers.log"))
	must(t, err)
	cmd.Stderr = log
	tasks, err := cmd.StdinPipe()
	must(t, err)
	answers, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		tasks.Close()
		err := cmd.Wait()
		log.Close()
		if said, _ := os.ReadFile(log.Name()); err != nil || t.Failed() {
			t.Logf("diffusers_side.py: %v\n%s", err, said)
		}
	})
	return &diffusersSide{tasks, bufio.NewReader(answers)}
}

// do gives it a task and waits until it is done.
func (d *diffusersSide) do(t *testing.T, k task) {
	t.Helper()
	line, err := json.Marshal(k)
	must(t, err)
	if _, err := d.tasks.Write(append(line, '\n')); err != nil {
		t.Fatalf("diffusers: %s: %v", line, err)
	}
	raw, err := d.answers.ReadBytes('\n')
	if err != nil {
		t.Fatalf("diffusers: %s: %v", line, err)
	}
	var answer struct{ Error *string }
	must(t, json.Unmarshal(raw, &answer))
	if answer.Error != nil {
		t.Fatalf("diffusers: %s\n%s", line, *answer.Error)
	}
}
