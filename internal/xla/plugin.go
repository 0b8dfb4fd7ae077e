package xla

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>
#include "pjrt_table.h"

static void* fewstep_get_api(void* symbol) { return ((void* (*)(void))symbol)(); }
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime/cgo"
	"strings"
	"sync"
	"unsafe"

	"github.com/gomlx/compute"
	gomlxxla "github.com/gomlx/go-xla/compute/xla"
	"github.com/gomlx/go-xla/pjrt"
)

// pluginLibrary is a loaded plugin, registered with go-xla under a name of our own.
type pluginLibrary struct {
	// name is an absolute path that does not exist, ending in the kind: go-xla takes absolute names as they are
	// (every other name makes it load all plugins on its search path first) and reads the kind from the name.
	name         string
	path         string
	major, minor int
	table        *C.fewstep_table // our copy of the plugin's table; lives as long as the process
	real         *C.fewstep_table // the plugin's own; nil when the copy leaves execution and compilation alone
}

var (
	loadMu  sync.Mutex // dlerror, go-xla's plugin table and client creation are not safe for concurrent use
	plugins = map[pluginKey]*pluginLibrary{}
)

type pluginKey struct {
	path  string
	plain bool
}

// loadLibrary loads a shared library, by path or by a name that the loader resolves, and keeps it loaded.
func loadLibrary(path string) error {
	loadMu.Lock()
	defer loadMu.Unlock()
	_, err := dlopen(path, C.RTLD_NOW|C.RTLD_LOCAL)
	return err
}

func dlopen(path string, flags C.int) (unsafe.Pointer, error) {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	handle := C.dlopen(cpath, flags)
	if handle == nil {
		return nil, errors.New(C.GoString(C.dlerror()))
	}
	return handle, nil
}

// loadPlugin loads a plugin once per process and registers it with go-xla, behind our layer unless plain is asked for.
func loadPlugin(kind, path string, plain bool) (*pluginLibrary, error) {
	loadMu.Lock()
	defer loadMu.Unlock()
	key := pluginKey{path, plain}
	if p, ok := plugins[key]; ok {
		return p, nil
	}
	handle, err := dlopen(path, C.RTLD_LAZY|C.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("cannot be loaded: %w", err)
	}
	symbol := C.CString("GetPjrtApi")
	defer C.free(unsafe.Pointer(symbol))
	get := C.dlsym(handle, symbol)
	if get == nil {
		C.dlclose(handle)
		return nil, errors.New("is no PJRT plugin: it has no symbol GetPjrtApi")
	}
	api := C.fewstep_get_api(get)
	if api == nil {
		return nil, errors.New("returned no PJRT table")
	}
	table := C.fewstep_table_copy(api, C.bool(!plain))
	if table == nil {
		return nil, errors.New("has a PJRT table that is too small or of another major version")
	}
	p := &pluginLibrary{
		name:  fmt.Sprintf("/fewstep/%d/%s", len(plugins), kind),
		path:  path,
		major: int(table.version.major_version),
		minor: int(table.version.minor_version),
		table: table,
	}
	if !plain {
		p.real = (*C.fewstep_table)(api)
	}
	if err := pjrt.RegisterPreloadedPlugin(p.name, uintptr(unsafe.Pointer(table))); err != nil {
		return nil, fmt.Errorf("cannot be initialised: %w", err)
	}
	plugins[key] = p
	return p, nil
}

// newBackend opens a client of the plugin through go-xla and keeps hold of it for the figures that go-xla does not give.
func (p *pluginLibrary) newBackend(config string, values pjrt.NamedValuesMap, store KeyValue) (compute.Backend, *client, error) {
	loadMu.Lock()
	defer loadMu.Unlock()
	C.fewstep_take_created_client()
	c := &client{plugin: p}
	if store != nil {
		c.store = cgo.NewHandle(store)
		C.fewstep_store(C.uintptr_t(c.store))
		defer C.fewstep_store(0)
	}
	backend, err := gomlxxla.NewWithOptions(config, values)
	if err != nil {
		c.forget()
		return nil, nil, fmt.Errorf("cannot be opened: %w", err)
	}
	c.handle = C.fewstep_take_created_client()
	return backend, c, nil
}

// DeviceName is the name of the first device's model, as "NVIDIA H100 80GB HBM3"; a CPU plugin says little.
func (r *Runtime) DeviceName() string {
	if r.client == nil || r.client.handle == nil {
		return r.Kind
	}
	text := C.fewstep_identity(r.client.plugin.table, r.client.handle)
	if text == nil {
		return r.Kind
	}
	defer C.free(unsafe.Pointer(text))
	parts := strings.Split(C.GoString(text), "|")
	return parts[len(parts)-2]
}

func (p *pluginLibrary) version() string { return fmt.Sprintf("PJRT %d.%d", p.major, p.minor) }
