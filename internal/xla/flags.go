package xla

import (
	"os"
	"slices"
	"strings"
)

// flagsEnv is where XLA reads its flags, once, when the first plugin of a process begins its work.
const flagsEnv = "XLA_FLAGS"

var usersFlags = os.Getenv(flagsEnv) // as the process was started

// setFlag adds one of XLA's flags to the environment unless it is there: what the user sets stays. What was added is told
// in [Runtime].Flags.
func setFlag(name, value string) {
	flags := os.Getenv(flagsEnv)
	if !slices.ContainsFunc(strings.Fields(flags), func(f string) bool { return f == name || strings.HasPrefix(f, name+"=") }) {
		os.Setenv(flagsEnv, strings.TrimSpace(flags+" "+name+"="+value))
	}
}

// addedFlags are the flags of after that are not among those of before.
func addedFlags(before, after string) []string {
	users := strings.Fields(before)
	return slices.DeleteFunc(strings.Fields(after), func(f string) bool { return slices.Contains(users, f) })
}
