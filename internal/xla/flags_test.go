package xla

import (
	"os"
	"slices"
	"testing"
)

// A flag that the user sets stays, one whose name is the beginning of another's is still added, and what was added is told.
func TestFlagsAdded(t *testing.T) {
	const users = "--xla_a=1  --xla_bare --xla_long_name=3"
	t.Setenv(flagsEnv, users)
	for _, name := range []string{"--xla_a", "--xla_bare", "--xla_long", "--xla_new"} {
		setFlag(name, "2")
		setFlag(name, "4")
	}
	if got, want := os.Getenv(flagsEnv), "--xla_a=1  --xla_bare --xla_long_name=3 --xla_long=2 --xla_new=2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := addedFlags(users, os.Getenv(flagsEnv)); !slices.Equal(got, []string{"--xla_long=2", "--xla_new=2"}) {
		t.Errorf("told are %q", got)
	}
}
