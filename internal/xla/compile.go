package xla

/*
#include <stdlib.h>
#include "pjrt_table.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"runtime/cgo"
	"sort"
	"strings"
	"sync"
	"unsafe"
)

// request is what one compilation is asked for beyond what go-xla can say, and what it answers beyond that.
type request struct {
	aliases map[int]int
	span    *Span
	info    ProgramInfo
	err     error // why the request was not fulfilled
}

// compiling is held for reading by every compilation, and for writing by what ends a backend.
var compiling sync.RWMutex

// ProgramInfo is what the layer over the plugin's table tells of a compiled program; the zero value without the layer.
type ProgramInfo struct {
	Scratch int64 // device memory that it takes beside its inputs and outputs, in bytes
	Cached  bool  // it was taken from the folder of compiled programs
}

// Compile runs compile, which compiles one program on the calling goroutine, so that the program's input i and
// output aliases[i], which must have one shape, share a buffer whenever the input is donated: nothing is then copied
// and old and new value never exist side by side. Without the layer over the plugin's table, and on the pure-Go
// backend, the program is compiled as it is, and donated inputs are freed after the execution.
//
// A backend that is closed meanwhile stays until its compilations have ended.
//
// With a span the program, compiled for all of this process's devices, becomes one of the devices of all processes.
func Compile(aliases map[int]int, span *Span, compile func() error) (ProgramInfo, error) {
	r := &request{aliases: aliases, span: span}
	compiling.RLock()
	defer compiling.RUnlock()
	handle := cgo.NewHandle(r)
	defer handle.Delete()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	C.fewstep_request(C.uintptr_t(handle))
	defer C.fewstep_request(0)
	if err := compile(); err != nil {
		return r.info, err
	}
	return r.info, r.err
}

// fewstepCompile stands in for the plugin's Client_Compile: it adds the aliases that the program was asked for, and
// takes the executable from the cache of programs, or puts it there. It returns NULL or the plugin's error object.
//
//export fewstepCompile
func fewstepCompile(real *C.fewstep_table, args *C.fewstep_compile_args, handle C.uintptr_t) unsafe.Pointer {
	r := &request{}
	if handle != 0 {
		r = cgo.Handle(handle).Value().(*request)
	}
	code := C.GoStringN(args.program.code, C.int(args.program.code_size))
	if len(r.aliases) > 0 {
		changed, err := withAliases(code, r.aliases)
		if err != nil {
			r.err = err
		} else {
			code = changed
		}
	}
	options := C.GoBytes(unsafe.Pointer(args.compile_options), C.int(args.compile_options_size))
	if r.span != nil {
		var err error
		if code, options, err = r.span.spanning(code, options); err != nil {
			r.err = err
		}
	}
	defer func() {
		if args.executable != nil {
			r.info.Scratch = max(int64(C.fewstep_scratch_bytes(real, args.executable)), 0)
		}
	}()
	cache := cacheOf(real)
	if r.span != nil { // such programs are small, and ranks of which one has a program and another has not must not differ
		cache = nil
	}
	var key string
	var compiling *turn
	if cache != nil {
		key = cache.key(real, args.client, code, options)
		if cache.load(real, args.client, key, &args.executable) {
			r.info.Cached = true
			return nil
		}
		compiling = cache.turn(key)
		compiling.Lock()
		defer compiling.Unlock()
		if compiling.kept && cache.load(real, args.client, key, &args.executable) {
			r.info.Cached = true
			return nil
		}
	}
	ccode := C.CString(code)
	defer C.free(unsafe.Pointer(ccode))
	coptions := C.CBytes(options)
	defer C.free(coptions)
	if err := C.fewstep_compile_code(real, args, ccode, C.size_t(len(code)), (*C.char)(coptions), C.size_t(len(options))); err != nil {
		return err
	}
	if cache != nil {
		compiling.kept = cache.store(real, args.executable, key)
	}
	return nil
}

// withAliases marks inputs of a StableHLO text's main function as sharing a buffer with an output.
func withAliases(text string, aliases map[int]int) (string, error) {
	const start = "func.func @main("
	at := strings.Index(text, start)
	if at < 0 {
		return "", fmt.Errorf("xla: aliasing a program: it has no main function")
	}
	at += len(start)
	ends, err := argumentEnds(text[at:])
	if err != nil {
		return "", err
	}
	inputs := make([]int, 0, len(aliases))
	for i := range aliases {
		if i < 0 || i >= len(ends) {
			return "", fmt.Errorf("xla: aliasing a program: it has %d inputs, not an input %d", len(ends), i)
		}
		inputs = append(inputs, i)
	}
	sort.Ints(inputs)
	var b strings.Builder
	b.Grow(len(text) + 40*len(aliases))
	done := 0
	for _, i := range inputs {
		end := at + ends[i]
		if text[end-1] == '}' {
			return "", fmt.Errorf("xla: aliasing a program: input %d has attributes already", i)
		}
		b.WriteString(text[done:end])
		fmt.Fprintf(&b, " {tf.aliasing_output = %d : i32}", aliases[i])
		done = end
	}
	b.WriteString(text[done:])
	return b.String(), nil
}

// argumentEnds finds where each argument of a function ends. text begins behind the opening parenthesis.
func argumentEnds(text string) (ends []int, err error) {
	depth := 0
	for i := range len(text) {
		switch c := text[i]; c {
		case '<', '{', '(', '[':
			depth++
		case '>', '}', ']':
			depth--
		case ',':
			if depth == 0 {
				ends = append(ends, i)
			}
		case ')':
			if depth == 0 {
				if len(strings.TrimSpace(text[:i])) > 0 {
					ends = append(ends, i)
				}
				return ends, nil
			}
			depth--
		}
		if depth < 0 {
			break
		}
	}
	return nil, fmt.Errorf("xla: aliasing a program: its main function's arguments do not end")
}
