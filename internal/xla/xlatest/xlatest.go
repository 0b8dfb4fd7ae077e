// Package xlatest says what a test does where no XLA plugin can be had.
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
