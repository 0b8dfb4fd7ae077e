package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fewstep": main})
}

// Scripts run in an empty home. The variable PLUGINS holds this machine's plugin cache, REPO the repository;
// the condition [plugin] holds where the CPU plugin has been fetched.
func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var plugin string
	if cache, err := os.UserCacheDir(); err == nil {
		if found, _ := filepath.Glob(filepath.Join(cache, "fewstep", "plugins", "*", "pjrt_c_api_cpu_plugin.so")); len(found) > 0 {
			plugin = found[0]
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
			env.Setenv("FEWSTEP_PJRT_PLUGIN", "")
			env.Setenv("PJRT_PLUGIN_LIBRARY_PATH", "")
			env.Setenv("REPO", repo)
			env.Setenv("PLUGIN", plugin)
			return os.MkdirAll(home, 0o755)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "plugin":
				return plugin != "", nil
			case "gpu":
				files, _ := filepath.Glob("/dev/nvidia*")
				return len(files) > 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
	})
}

// Every command's help opens with one sentence and holds an example.
func TestHelpTexts(t *testing.T) {
	root := (&app{stdout: io.Discard, stderr: io.Discard}).root()
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		path := cmd.CommandPath()
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			return // cobra's own
		}
		if !strings.HasSuffix(cmd.Short, ".") || strings.Count(cmd.Short, ". ") > 0 {
			t.Errorf("%s: Short is not one sentence: %q", path, cmd.Short)
		}
		opening, _, _ := strings.Cut(cmd.Long, "\n")
		if cmd.Long != "" && !strings.HasSuffix(opening, ".") {
			t.Errorf("%s: Long does not open with a sentence: %q", path, opening)
		}
		if !strings.Contains(cmd.Example, path) {
			t.Errorf("%s: the example does not call the command: %q", path, cmd.Example)
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
	for _, sub := range root.Commands() {
		if sub.Name() == "doctor" {
			return
		}
	}
	t.Error("doctor is not registered")
}

func TestExitErrors(t *testing.T) {
	base := errors.New("boom")
	err := withCode(exitRefused, fmt.Errorf("run: %w", withHint(base, "do that")))
	if exitCode(err) != exitRefused || !errors.Is(err, base) {
		t.Errorf("code %d of %v", exitCode(err), err)
	}
	var out strings.Builder
	printError(&out, err)
	if want := "fewstep: run: boom\nfewstep: hint: do that\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	full := fmt.Errorf("running step: %w", errors.New("PJRT error (code=8): Out of memory allocating 4398046511104 bytes."))
	if err := hintAtMemory(full); exitCode(err) != exitFailure || !errors.As(err, new(*exitError)) || !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if err := hintAtMemory(withHint(full, "better")); err.(*exitError).hint != "better" {
		t.Errorf("a hint was replaced: %v", err)
	}
	if err := hintAtMemory(base); err != base || hintAtMemory(nil) != nil {
		t.Errorf("%v", err)
	}
	if exitCode(withHint(withCode(exitNonFinite, base), "x")) != exitNonFinite {
		t.Error("a hint lost the exit code")
	}
	if withCode(exitUsage, nil) != nil || withHint(nil, "x") != nil {
		t.Error("nil did not stay nil")
	}
}
