package main

import (
	"strconv"

	"fewstep/internal/xla"
)

const devicesUsage = "how many devices train together: a number, or all that there are; on the CPU virtual ones are made"

// virtualDevices is the number of CPU devices that --devices asks for, where the CPU is taken. "all" of a CPU is one.
func virtualDevices(devices string) (int, error) {
	if devices == "all" {
		return 1, nil
	}
	n, err := strconv.Atoi(devices)
	if err != nil || n < 1 || n > 1024 {
		return 0, withHint(usageErrorf("--devices %q is not a number of devices", devices), "write a number from 1 to 1024, or all")
	}
	return n, nil
}

// atMost is what --devices may come to, before a backend is open.
func atMost(devices string, virtual int) int {
	if devices == "all" {
		return max(xla.GPUs(), 1)
	}
	return virtual
}

// countDevices is the number of devices that --devices asks for of an open backend, which must have them.
func countDevices(devices string, rt *xla.Runtime) (int, error) {
	have := rt.NumDevices()
	if devices == "all" {
		return have, nil
	}
	n, err := virtualDevices(devices)
	if err == nil && n > have {
		err = withHint(usageErrorf("--devices %d: this process drives %d (%s)", n, have, rt.DeviceName()), "choose at most %d, or all", have)
	}
	return n, err
}
