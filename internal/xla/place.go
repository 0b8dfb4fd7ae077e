package xla

/*
#include <stdlib.h>
#include "pjrt_table.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/shapes"
)

// Buffers in the host's memory. A device of a PJRT plugin reaches several memories: its own, and page-locked memory of
// the host, of kind "pinned_host", from which and to which it copies by itself while it computes. A buffer there can be
// read as any other, and copied; programs take and give buffers in the device's own memory only.

// ErrNoHostMemory is wrapped by the errors of UploadToHost, ToHost and ToDevice where buffers cannot lie in the host's
// memory: on the pure-Go backend, without the layer over the plugin's table, and with plugins that know one memory only.
var ErrNoHostMemory = errors.New("this backend cannot keep arrays in the host's memory: it takes a PJRT plugin with memory of kind pinned_host, used through the layer over its table (not as it is: " + PlainEnv + ")")

// hostLimitEnv is read by XLA's CUDA client: the most page-locked memory that it takes, in GiB. Its own limit is 64.
const hostLimitEnv = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"

// limitHostMemory tells the plugin how much page-locked memory will be needed, unless the user did. The plugin takes memory in
// pieces, each twice as large as the one before, up to this limit, and keeps all of it from other programs. The limit is a
// quarter and 1 GiB above the need, for the gaps between buffers.
func limitHostMemory(bytes int64) {
	if bytes > 0 && os.Getenv(hostLimitEnv) == "" {
		os.Setenv(hostLimitEnv, fmt.Sprint((bytes+bytes/4)>>30+2))
	}
}

// Transfer is a copy under way.
type Transfer struct {
	real  *C.fewstep_table
	event unsafe.Pointer
}

// Wait returns when the copy is there, with the error of the work that it came from. It may be called once.
func (t *Transfer) Wait() error {
	if t == nil || t.event == nil {
		return nil
	}
	message := C.fewstep_await(t.real, t.event)
	t.event = nil
	if message == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(message))
	return fmt.Errorf("xla: copying between memories: %s", C.GoString(message))
}

// UploadToHost is Backend.BufferFromFlatData into the host's memory, as far as the device reaches it.
func UploadToHost(backend compute.Backend, device compute.DeviceNum, flat any, shape shapes.Shape) (compute.Buffer, error) {
	b, t, err := placed(C.FEWSTEP_PINNED_HOST, func() (compute.Buffer, error) { return backend.BufferFromFlatData(device, flat, shape) })
	if err == nil {
		err = t.Wait()
	}
	return b, err
}

// ToHost queues a copy of a device's buffer to the host's memory.
func ToHost(b compute.Buffer, device compute.DeviceNum) (compute.Buffer, *Transfer, error) {
	return placed(C.FEWSTEP_PINNED_HOST, func() (compute.Buffer, error) { return b.CopyToDevice(device) })
}

// ToDevice queues a copy of a buffer to the device's own memory. The buffer may be freed at once.
func ToDevice(b compute.Buffer, device compute.DeviceNum) (compute.Buffer, error) {
	on, _, err := placed(C.FEWSTEP_ON_DEVICE, func() (compute.Buffer, error) { return b.CopyToDevice(device) })
	return on, err
}

// placed makes a buffer by a call of go-xla, which runs on this thread, in a memory of the device.
func placed(where C.int, make func() (compute.Buffer, error)) (compute.Buffer, *Transfer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	C.fewstep_place(where)
	defer C.fewstep_place(C.FEWSTEP_AS_ASKED)
	b, err := make()
	t := &Transfer{}
	done := bool(C.fewstep_placed(&t.real, &t.event))
	switch {
	case done && err == nil:
		return b, t, nil
	case err == nil:
		_ = b.Finalize()
		return nil, nil, fmt.Errorf("xla: %w", ErrNoHostMemory)
	case done:
		_ = t.Wait()
		return nil, nil, err
	}
	return nil, nil, fmt.Errorf("xla: %w (%w)", ErrNoHostMemory, err)
}
