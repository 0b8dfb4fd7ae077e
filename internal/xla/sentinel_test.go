package xla

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An execution's completion is no event of the plugin's (pjrt_table.c). Whatever go-xla calls with an event must
// therefore be a function that the layer stands in for: this fails when a newer go-xla calls another one.
func TestEventsStayInTheLayer(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/gomlx/go-xla").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "pjrt", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	guarded := map[string]bool{"Destroy": true, "IsReady": true, "Error": true, "Await": true, "OnReady": true}
	called := map[string]bool{}
	call := regexp.MustCompile(`(?:call_|->)PJRT_Event_(\w+)\(`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			called[string(m[1])] = true
		}
	}
	if !called["Await"] || !called["Destroy"] {
		t.Errorf("found calls of %v only: the pattern no longer fits go-xla's sources", called)
	}
	for name := range called {
		if !guarded[name] {
			t.Errorf("go-xla calls PJRT_Event_%s, which may be handed the layer's own event: stand in for it in pjrt_table.c", name)
		}
	}
}
