package xla

import (
	"os"
	"regexp"
)

var driverLine = regexp.MustCompile(`NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s`)

// DriverVersion is the version of the NVIDIA driver that is loaded, as "580.82.07"; "" where there is none or where it does
// not tell.
func DriverVersion() string { return driverVersion("/proc/driver/nvidia/version") }

func driverVersion(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if m := driverLine.FindSubmatch(raw); m != nil {
		return string(m[1])
	}
	return ""
}
