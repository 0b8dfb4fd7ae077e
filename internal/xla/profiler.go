package xla

/*
#include <stdlib.h>
#include "profiler.h"
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// Profile is a running recording of what host and devices do.
type Profile struct {
	table    *C.fewstep_table
	profiler unsafe.Pointer
}

// HasProfiler says whether the plugin has a profiler of its own. CPU plugins have none.
func (r *Runtime) HasProfiler() bool {
	return r.client != nil && bool(C.fewstep_has_profiler(r.client.plugin.table))
}

// StartProfile starts the plugin's own profiler. One recording may run at a time.
func (r *Runtime) StartProfile() (*Profile, error) {
	if r.client == nil {
		return nil, fmt.Errorf("xla: profile: the %s backend has no profiler", r.Kind)
	}
	p := &Profile{table: r.client.plugin.table}
	if reason := C.fewstep_profile_start(p.table, &p.profiler); reason != nil {
		return nil, fmt.Errorf("xla: profile: %s", C.GoString(reason))
	}
	return p, nil
}

// Stop ends the recording and returns it.
func (p *Profile) Stop() (*Recording, error) {
	var data *C.char
	var size C.size_t
	if reason := C.fewstep_profile_stop(p.table, p.profiler, &data, &size); reason != nil {
		return nil, fmt.Errorf("xla: profile: %s", C.GoString(reason))
	}
	defer C.free(unsafe.Pointer(data))
	return ParseRecording(C.GoBytes(unsafe.Pointer(data), C.int(size)))
}
