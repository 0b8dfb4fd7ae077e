package xla

/*
#include <stdlib.h>
#include "pjrt_table.h"
*/
import "C"

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"fewstep/internal/atomicfile"
)

// CacheEnv is the environment variable that names the folder of compiled programs; "off" keeps none.
const CacheEnv = "FEWSTEP_PROGRAM_CACHE"

// The folder of compiled programs holds one file per program, named by everything that its machine code depends on:
// the program's text, the compile options, the plugin's build and interface version, the device's kind, XLA's flags
// and the processor. A file opens with cacheMagic and the SHA-256 of the rest, so that a damaged one is seen before the
// plugin is given it; such a file is told of, ignored and written again. Files not used for cacheDays are removed when
// a backend is opened.
const (
	cacheMagic = "fewstep program 1\n"
	cacheDays  = 30
)

// programCache is the folder as one plugin uses it.
type programCache struct {
	dir string

	turns sync.Map // *turn by key

	mu          sync.Mutex
	hits, saves int
	broken      string // why the plugin cannot serialise or load; empty when it can
}

// CacheStats tells what the folder of compiled programs was good for.
type CacheStats struct {
	Hits  int    `json:"hits"`             // programs taken from it
	Saves int    `json:"saves"`            // programs put there
	Off   string `json:"off,omitempty"`    // why it is not used; empty when it is
	Dir   string `json:"folder,omitempty"` // empty when it is not used
}

var (
	cachesMu sync.Mutex
	caches   = map[*C.fewstep_table]*programCache{} // by the plugin's own table
)

func cacheOf(real *C.fewstep_table) *programCache {
	cachesMu.Lock()
	defer cachesMu.Unlock()
	return caches[real]
}

// defaultCacheDir is what the environment asks for, else a folder in the user's cache.
func defaultCacheDir() string {
	if dir := os.Getenv(CacheEnv); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "off"
	}
	return filepath.Join(dir, "fewstep", "programs")
}

// useCache makes a plugin keep its programs in a folder ("off" for none) from now on.
func useCache(real *C.fewstep_table, dir string) {
	cachesMu.Lock()
	defer cachesMu.Unlock()
	if dir == "off" {
		delete(caches, real)
		return
	}
	if c := caches[real]; c == nil || c.dir != dir {
		caches[real] = &programCache{dir: dir}
		prune(dir, time.Now().AddDate(0, 0, -cacheDays))
	}
}

// prune removes programs that were not used since a time. What it cannot remove stays.
func prune(dir string, since time.Time) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.xla"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.ModTime().Before(since) {
			_ = os.Remove(f)
		}
	}
}

// CacheStats reports on the folder of compiled programs.
func (r *Runtime) CacheStats() CacheStats {
	if r.client == nil || r.client.plugin.real == nil {
		return CacheStats{Off: "this backend has none"}
	}
	c := cacheOf(r.client.plugin.real)
	if c == nil {
		return CacheStats{Off: "switched off"}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStats{Hits: c.hits, Saves: c.saves, Off: c.broken, Dir: c.dir}
}

// key names a program's file.
func (c *programCache) key(real *C.fewstep_table, client unsafe.Pointer, code string, options []byte) string {
	identity := ""
	if text := C.fewstep_identity(real, client); text != nil {
		identity = C.GoString(text)
		C.free(unsafe.Pointer(text))
	}
	h := sha256.New()
	for _, part := range []string{identity, withoutPlaces(os.Getenv("XLA_FLAGS")), processor(), string(options), code} {
		fmt.Fprintf(h, "%d\n%s\n", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// processor is what /proc/cpuinfo says of the first processor's model and features: programs of CPU plugins, and host
// code of others, may use all of them.
var processor = sync.OnceValue(func() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			switch strings.TrimSpace(name) {
			case "model name", "flags", "Features", "CPU part":
				out = append(out, line)
			}
		} else if len(out) > 0 {
			break // the next processor
		}
	}
	return strings.Join(out, "")
})

// turn is held while a key's program is compiled, so that who asks for it meanwhile takes what was kept.
type turn struct {
	sync.Mutex
	kept bool // by this process, in the folder
}

func (c *programCache) turn(key string) *turn {
	t, _ := c.turns.LoadOrStore(key, &turn{})
	return t.(*turn)
}

func (c *programCache) path(key string) string { return filepath.Join(c.dir, key+".xla") }

// load gives the executable of a key, if there is one.
func (c *programCache) load(real *C.fewstep_table, client unsafe.Pointer, key string, loaded *unsafe.Pointer) bool {
	if c.isBroken() {
		return false
	}
	path := c.path(key)
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	body, ok := openEntry(data)
	if !ok {
		slog.Warn("a compiled program is damaged and is compiled again", "file", path)
		return false
	}
	var out unsafe.Pointer
	if message := C.fewstep_deserialize(real, client, (*C.char)(unsafe.Pointer(unsafe.SliceData(body))), C.size_t(len(body)), &out); message != nil {
		slog.Warn("a compiled program does not load and is compiled again", "file", path, "reason", takeString(message))
		return false
	}
	*loaded = out
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	c.mu.Lock()
	c.hits++
	c.mu.Unlock()
	return true
}

// store keeps an executable, and says whether it did. A plugin that cannot serialise is asked once.
func (c *programCache) store(real *C.fewstep_table, loaded unsafe.Pointer, key string) bool {
	if c.isBroken() {
		return false
	}
	var data *C.char
	var size C.size_t
	if message := C.fewstep_serialize(real, loaded, &data, &size); message != nil {
		c.giveUp("the plugin does not serialise programs: " + takeString(message))
		return false
	}
	defer C.free(unsafe.Pointer(data))
	body := unsafe.Slice((*byte)(unsafe.Pointer(data)), int(size))
	if err := atomicfile.WriteBytes(c.path(key), sealEntry(body)); err != nil {
		slog.Warn("compiled programs are not kept", "reason", err)
		c.giveUp(err.Error())
		return false
	}
	c.mu.Lock()
	c.saves++
	c.mu.Unlock()
	return true
}

func (c *programCache) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken != ""
}

func (c *programCache) giveUp(reason string) {
	c.mu.Lock()
	c.broken = reason
	c.mu.Unlock()
}

func sealEntry(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(append([]byte(cacheMagic), sum[:]...), body...)
}

func openEntry(data []byte) (body []byte, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(cacheMagic))
	if !ok || len(rest) <= sha256.Size {
		return nil, false
	}
	body = rest[sha256.Size:]
	sum := sha256.Sum256(body)
	return body, bytes.Equal(sum[:], rest[:sha256.Size])
}

func takeString(s *C.char) string {
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s)
}
