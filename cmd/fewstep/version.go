package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the Makefile through -ldflags; otherwise the build information is asked.
var version string

func init() { register(newVersion) }

// buildVersion is what this binary was made from.
type buildVersion struct {
	Version string            `json:"version"`
	Go      string            `json:"go"`
	OS      string            `json:"os"`
	Arch    string            `json:"arch"`
	Modules map[string]string `json:"modules"` // those that decide the numbers
}

// numericModules are the modules whose version can change a result.
var numericModules = []string{"github.com/gomlx/gomlx", "github.com/gomlx/compute", "github.com/gomlx/go-xla"}

func readVersion() buildVersion {
	v := buildVersion{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	for _, dep := range info.Deps {
		for _, name := range numericModules {
			if dep.Path == name {
				v.Modules[name] = dep.Version
			}
		}
	}
	return v
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this binary and of the libraries that decide its numbers.",
		Example: "  fewstep version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := readVersion()
			if a.json {
				return a.writeJSON(v)
			}
			fmt.Fprintf(a.stdout, "fewstep %s %s %s/%s\n", v.Version, v.Go, v.OS, v.Arch)
			for _, name := range numericModules {
				if ver := v.Modules[name]; ver != "" {
					fmt.Fprintf(a.stdout, "%s %s\n", name, ver)
				}
			}
			return nil
		},
	}
}
