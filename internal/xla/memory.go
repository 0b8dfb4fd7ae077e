package xla

/*
#include <stdlib.h>
#include "pjrt_table.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime/cgo"
	"strings"
	"unsafe"
)

// client is a PJRT client that go-xla opened through our copy of a plugin's table.
type client struct {
	plugin *pluginLibrary
	handle unsafe.Pointer // owned by go-xla; nil when it was not seen
	store  cgo.Handle     // of the key-value store; 0 = none
}

// forget drops the store, which a client asks as long as it lives.
func (c *client) forget() {
	if c != nil && c.store != 0 {
		c.store.Delete()
		c.store = 0
	}
}

// DeviceMemory is what a plugin's allocator tells of one device, in bytes. A figure that the plugin does not
// keep is 0.
type DeviceMemory struct {
	InUse int64 `json:"in_use_bytes"`
	Peak  int64 `json:"peak_bytes"`  // highest InUse since the process began
	Limit int64 `json:"limit_bytes"` // the most that may be in use
}

// ErrNoMemoryFigures is wrapped by the errors of [Runtime.DeviceMemory] where the plugin keeps no figures,
// as those of CPUs and the pure-Go backend do.
var ErrNoMemoryFigures = errors.New("this backend keeps no device memory figures")

// OutOfMemory says whether an error came of a device whose memory was not enough. The plugins' errors reach us as text:
// PJRT's code for it is 8, XLA's name of it RESOURCE_EXHAUSTED.
func OutOfMemory(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "PJRT error (code=8)") || strings.Contains(err.Error(), "RESOURCE_EXHAUSTED"))
}

// DeviceMemory asks the plugin for the memory figures of one device.
func (r *Runtime) DeviceMemory(device int) (DeviceMemory, error) {
	if r.client == nil || r.client.handle == nil {
		return DeviceMemory{}, fmt.Errorf("xla: device %d: %w", device, ErrNoMemoryFigures)
	}
	if device < 0 || device >= r.NumDevices() {
		return DeviceMemory{}, fmt.Errorf("xla: device %d: this process has %d devices", device, r.NumDevices())
	}
	var stats C.fewstep_memory_stats
	if message := C.fewstep_device_memory(r.client.plugin.table, r.client.handle, C.size_t(device), &stats); message != nil {
		defer C.free(unsafe.Pointer(message))
		return DeviceMemory{}, fmt.Errorf("xla: device %d: %w: %s", device, ErrNoMemoryFigures, C.GoString(message))
	}
	m := DeviceMemory{InUse: int64(stats.bytes_in_use)}
	if stats.peak_bytes_in_use_is_set {
		m.Peak = int64(stats.peak_bytes_in_use)
	}
	if stats.bytes_limit_is_set {
		m.Limit = int64(stats.bytes_limit)
	}
	return m, nil
}
