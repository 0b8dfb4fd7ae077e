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
func atMost(devices string) (int, error) {
	if devices == "all" {
		return max(xla.GPUs(), 1), nil
	}
	return virtualDevices(devices)
}

// openDevices opens a backend with the devices that --devices asks for, which it must have, and counts them. The caller closes
// the runtime.
func (a *app) openDevices(devices string, opt xla.Options) (rt *xla.Runtime, n int, err error) {
	if opt.Devices, err = virtualDevices(devices); err != nil {
		return nil, 0, err
	}
	if rt, err = a.openBackend(opt); err != nil {
		return nil, 0, err
	}
	have := rt.NumDevices()
	switch {
	case devices == "all":
		return rt, have, nil
	case opt.Devices > have:
		err := withHint(usageErrorf("--devices %d: this process drives %d (%s)", opt.Devices, have, rt.DeviceName()), "choose at most %d, or all", have)
		rt.Close()
		return nil, 0, err
	}
	return rt, opt.Devices, nil
}
