package xla

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// The head of every PJRT_Api table (OpenXLA, xla/pjrt/c/pjrt_c_api.h); function pointers follow it.
typedef struct {
	size_t struct_size;
	void*  extension_start;
	struct {
		size_t struct_size;
		void*  extension_start;
		int    major_version;
		int    minor_version;
	} version;
} fewstep_api_head;

static void* fewstep_get_api(void* symbol) {
	return ((void* (*)(void))symbol)();
}
*/
import "C"

import (
	"errors"
	"fmt"
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
}

// client is what is known of an opened PJRT client beyond go-xla's view of it.
type client struct{}

var (
	loadMu  sync.Mutex // dlerror, go-xla's plugin table and client creation are not safe for concurrent use
	plugins = map[string]*pluginLibrary{}
)

// loadLibrary loads a shared library, by path or by a name that the loader resolves, and keeps it loaded.
func loadLibrary(path string) error {
	loadMu.Lock()
	defer loadMu.Unlock()
	_, err := dlopen(path, C.RTLD_LAZY|C.RTLD_GLOBAL)
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

// loadPlugin loads a plugin once per process and registers it with go-xla.
func loadPlugin(kind, path string) (*pluginLibrary, error) {
	loadMu.Lock()
	defer loadMu.Unlock()
	if p, ok := plugins[path]; ok {
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
	head := (*C.fewstep_api_head)(api)
	p := &pluginLibrary{
		name:  fmt.Sprintf("/fewstep/%d/%s", len(plugins), kind),
		path:  path,
		major: int(head.version.major_version),
		minor: int(head.version.minor_version),
	}
	if err := pjrt.RegisterPreloadedPlugin(p.name, uintptr(api)); err != nil {
		return nil, fmt.Errorf("cannot be initialised: %w", err)
	}
	plugins[path] = p
	return p, nil
}

func (p *pluginLibrary) newBackend(config string, values pjrt.NamedValuesMap) (compute.Backend, *client, error) {
	loadMu.Lock()
	defer loadMu.Unlock()
	backend, err := gomlxxla.NewWithOptions(config, values)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot be opened: %w", err)
	}
	return backend, &client{}, nil
}

func (p *pluginLibrary) version() string { return fmt.Sprintf("PJRT %d.%d", p.major, p.minor) }
