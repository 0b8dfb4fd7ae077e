package xla

/*
#include <stdlib.h>
#include "pjrt_table.h"
*/
import "C"

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"runtime/cgo"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// KeyValue is a store that the processes of a job share, through which their clients find each other and NCCL its peers. A
// key is set once. A store serves one attempt of a job: who starts again must not see what an earlier attempt left, or it
// reads the addresses of dead processes. All processes must have joined before a client is opened. It is used by several
// goroutines at once, and for as long as the client lives.
type KeyValue interface {
	// Get waits until a key has a value, or ctx ends.
	Get(ctx context.Context, key string) ([]byte, error)
	// TryGet gives a key's value, or an error where it has none yet.
	TryGet(ctx context.Context, key string) ([]byte, error)
	// Put sets a key.
	Put(ctx context.Context, key string, value []byte) error
}

// Processes makes a backend one of several processes' (kind cuda only).
type Processes struct {
	Index, Count int // of this process, from 0
	Store        KeyValue
}

// keyTimeout ends a call of the store that XLA sets no limit to.
const keyTimeout = 10 * time.Minute

// fewstepKeyGet is how XLA asks the store: with a timeout in milliseconds it waits for the key, below 0 it does not. It
// returns a message that the caller frees, or NULL and the value, which is the caller's too.
//
//export fewstepKeyGet
func fewstepKeyGet(handle C.uintptr_t, key *C.char, size C.size_t, timeout C.int, value **C.char, length *C.size_t) *C.char {
	store := cgo.Handle(handle).Value().(KeyValue)
	name := C.GoStringN(key, C.int(size))
	limit := time.Duration(timeout) * time.Millisecond
	if timeout < 0 {
		limit = keyTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	get := store.Get
	if timeout < 0 {
		get = store.TryGet
	}
	v, err := get(ctx, name)
	if err != nil {
		return C.CString(fmt.Sprintf("key %s: %v", name, err))
	}
	*value = (*C.char)(C.CBytes(append(v, 0))) // C.CBytes gives NULL for nothing
	*length = C.size_t(len(v))
	return nil
}

//export fewstepKeyPut
func fewstepKeyPut(handle C.uintptr_t, key *C.char, size C.size_t, value *C.char, length C.size_t) *C.char {
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	name := C.GoStringN(key, C.int(size))
	if err := cgo.Handle(handle).Value().(KeyValue).Put(ctx, name, C.GoBytes(unsafe.Pointer(value), C.int(length))); err != nil {
		return C.CString(fmt.Sprintf("key %s: %v", name, err))
	}
	return nil
}

// Span are the devices of all processes of a job, in an order that all agree on: by process, then by id.
type Span struct {
	IDs   []int64 // by which programs name devices
	First int     // position of this process's first device; its others follow in the backend's order
}

// Span lists the devices of all processes.
func (r *Runtime) Span() (*Span, error) {
	if r.client == nil || r.client.handle == nil {
		return nil, errors.New("xla: this backend knows no other processes")
	}
	all, err := r.client.devices(true)
	if err != nil {
		return nil, err
	}
	own, err := r.client.devices(false)
	if err != nil {
		return nil, err
	}
	return spanOf(all, own)
}

// place is a device of a job.
type place struct{ id, process int }

func spanOf(all, own []place) (*Span, error) {
	slices.SortFunc(all, func(a, b place) int { return cmp.Or(cmp.Compare(a.process, b.process), cmp.Compare(a.id, b.id)) })
	s := &Span{First: slices.Index(all, own[0])}
	for _, p := range all {
		s.IDs = append(s.IDs, int64(p.id))
	}
	if s.First < 0 || s.First+len(own) > len(all) || !slices.Equal(all[s.First:s.First+len(own)], own) {
		return nil, fmt.Errorf("xla: this process drives devices %v, which do not lie together among those of all processes, %v", own, all)
	}
	return s, nil
}

func (c *client) devices(all bool) ([]place, error) {
	out := make([]C.fewstep_device, 1<<16)
	count := C.size_t(len(out))
	if message := C.fewstep_devices(c.plugin.table, c.handle, C.bool(all), &out[0], &count); message != nil {
		return nil, fmt.Errorf("xla: devices: %s", takeString(message))
	}
	if count == 0 || int(count) > len(out) {
		return nil, fmt.Errorf("xla: the plugin tells of %d devices", count)
	}
	places := make([]place, count)
	for i := range places {
		places[i] = place{int(out[i].id), int(out[i].process)}
	}
	return places, nil
}

// Launch runs execute, which queues one program of all processes on the calling goroutine. number must be the same in all
// of them, and not 0; programs must be launched in the same order everywhere.
func Launch(number int, execute func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	C.fewstep_launch(C.int(number))
	defer C.fewstep_launch(0)
	return execute()
}

var (
	replicaGroups = regexp.MustCompile(`replica_groups = dense<\[\[[0-9, ]*\]\]> : tensor<1x[0-9]+xi64>`)
	replicaCount  = regexp.MustCompile(`stablehlo\.num_replicas = [0-9]+`)
)

// spanning makes a program of this process's devices one of all processes', as text and by its compile options.
func (s *Span) spanning(code string, options []byte) (string, []byte, error) {
	n := len(s.IDs)
	numbers := make([]string, n)
	for i := range numbers {
		numbers[i] = strconv.Itoa(i)
	}
	code = replicaGroups.ReplaceAllString(code, fmt.Sprintf("replica_groups = dense<[[%s]]> : tensor<1x%dxi64>", strings.Join(numbers, ", "), n))
	code = replicaCount.ReplaceAllString(code, fmt.Sprintf("stablehlo.num_replicas = %d", n))
	var ids, device, assignment []byte
	for _, id := range s.IDs {
		ids = protowire.AppendVarint(ids, uint64(id))
	}
	device = protowire.AppendBytes(protowire.AppendTag(device, 1, protowire.BytesType), ids)
	assignment = protowire.AppendVarint(protowire.AppendTag(assignment, 1, protowire.VarintType), uint64(n))
	assignment = protowire.AppendVarint(protowire.AppendTag(assignment, 2, protowire.VarintType), 1)
	assignment = protowire.AppendBytes(protowire.AppendTag(assignment, 3, protowire.BytesType), device)
	const build, replicas, places = 3, 4, 9 // CompileOptionsProto's, and ExecutableBuildOptionsProto's two
	inner, err := without(options, func(number protowire.Number) bool { return number != build })
	if err != nil {
		return "", nil, err
	}
	_, _, tag := protowire.ConsumeTag(inner)
	if tag < 0 {
		return "", nil, errors.New("xla: a program's compile options have no build options")
	}
	body, size := protowire.ConsumeBytes(inner[tag:])
	if size < 0 {
		return "", nil, protowire.ParseError(size)
	}
	if body, err = without(body, func(number protowire.Number) bool { return number == replicas || number == places }); err != nil {
		return "", nil, err
	}
	body = protowire.AppendVarint(protowire.AppendTag(body, replicas, protowire.VarintType), uint64(n))
	body = protowire.AppendBytes(protowire.AppendTag(body, places, protowire.BytesType), assignment)
	rest, err := without(options, func(number protowire.Number) bool { return number == build })
	if err != nil {
		return "", nil, err
	}
	return code, protowire.AppendBytes(protowire.AppendTag(rest, build, protowire.BytesType), body), nil
}

// without drops fields of a message.
func without(message []byte, drop func(protowire.Number) bool) (out []byte, err error) {
	for len(message) > 0 {
		number, _, size := protowire.ConsumeField(message)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		if !drop(number) {
			out = append(out, message[:size]...)
		}
		message = message[size:]
	}
	return out, nil
}
