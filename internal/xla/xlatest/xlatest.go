// Package xlatest says what tests do with XLA: where no plugin can be had, and how hard it compiles.
package xlatest

import (
	"os"
	"testing"
)

// RequireEnv is the environment variable that, set to anything, makes a missing plugin a failure: continuous integration
// sets it, so that a plugin that can no longer be fetched does not pass as a handful of skipped tests.
const RequireEnv = "FEWSTEP_REQUIRE_XLA"

// Missing ends a test that takes a plugin: it skips the test, or fails it where [RequireEnv] is set. why is the error of
// xla.Open, or its notes on why another backend was taken.
func Missing(t testing.TB, why any) {
	t.Helper()
	if os.Getenv(RequireEnv) != "" {
		t.Fatalf("%s is set and there is no XLA plugin: %v", RequireEnv, why)
	}
	t.Skip(why)
}

// QuickCompile asks the plugin for its lowest optimisation level, unless XLA_FLAGS is set: compiling is nearly all of many
// tests' time, and their numbers do not depend on how hard the compiler tries. A TestMain calls it before a plugin is opened.
func QuickCompile() {
	if os.Getenv("XLA_FLAGS") == "" {
		os.Setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
	}
}
