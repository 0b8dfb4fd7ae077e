package inception

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// unpickler reads the pickles of PyTorch's state dicts and nothing more: no code is run, and a name that a state dict
// does not need is an error.
type unpickler struct {
	data    []byte
	at      int
	stack   []any
	marks   []int
	memo    map[uint32]any
	persist func(id []any) (any, error)
}

// Values beside nil, bool, int64, float64 and string.
type (
	pickleGlobal string // module.name
	pickleTuple  []any
	pickleList   struct{ items []any }
	pickleDict   struct{ values map[string]any } // keys that are not text are left out
)

// tensorRef is a tensor that lies in a storage.
type tensorRef struct {
	storage     storageRef
	offset      int64
	size, steps []int64
}

// storageRef is a named run of numbers of one type.
type storageRef struct {
	kind, key string
	count     int64
}

var errPickleEnd = errors.New("the pickle ends early")

// load returns the value of the pickle at the current position and moves behind it.
func (u *unpickler) load() (v any, err error) {
	u.stack, u.marks, u.memo = nil, nil, map[uint32]any{}
	for {
		op, err := u.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' {
			return u.pop()
		}
		if err := u.step(op[0]); err != nil {
			return nil, err
		}
	}
}

func (u *unpickler) take(n int) ([]byte, error) {
	if n < 0 || n > len(u.data)-u.at {
		return nil, errPickleEnd
	}
	u.at += n
	return u.data[u.at-n : u.at], nil
}

// number reads n bytes, little-endian and unsigned.
func (u *unpickler) number(n int) (uint32, error) {
	raw, err := u.take(n)
	if err != nil {
		return 0, err
	}
	var full [4]byte
	copy(full[:], raw)
	return binary.LittleEndian.Uint32(full[:]), nil
}

func (u *unpickler) text(lengthBytes int) (string, error) {
	n, err := u.number(lengthBytes)
	if err != nil {
		return "", err
	}
	raw, err := u.take(int(n))
	return string(raw), err
}

func (u *unpickler) line() (string, error) {
	end := strings.IndexByte(string(u.data[u.at:min(len(u.data), u.at+256)]), '\n')
	if end < 0 {
		return "", errPickleEnd
	}
	raw, err := u.take(end + 1)
	return string(raw[:end]), err
}

func (u *unpickler) push(v any) { u.stack = append(u.stack, v) }

func (u *unpickler) pop() (any, error) {
	if len(u.stack) == 0 {
		return nil, errors.New("the pickle takes a value that is not there")
	}
	v := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return v, nil
}

// since takes everything above the last mark.
func (u *unpickler) since() ([]any, error) {
	if len(u.marks) == 0 || u.marks[len(u.marks)-1] > len(u.stack) {
		return nil, errors.New("the pickle takes values up to a mark that is not there")
	}
	mark := u.marks[len(u.marks)-1]
	u.marks = u.marks[:len(u.marks)-1]
	out := append([]any(nil), u.stack[mark:]...)
	u.stack = u.stack[:mark]
	return out, nil
}

// tuple takes the last n values.
func (u *unpickler) tuple(n int) ([]any, error) {
	if len(u.stack) < n {
		return nil, errors.New("the pickle takes values that are not there")
	}
	out := append([]any(nil), u.stack[len(u.stack)-n:]...)
	u.stack = u.stack[:len(u.stack)-n]
	return out, nil
}

// step runs one opcode.
func (u *unpickler) step(op byte) error {
	var v any
	var n uint32
	var items []any
	var err error
	switch op {
	case 0x80: // protocol
		_, err = u.take(1)
		return err
	case '(':
		u.marks = append(u.marks, len(u.stack))
		return nil
	case 'N':
	case 0x88, 0x89:
		v = op == 0x88
	case 'K', 'M', 'J':
		n, err = u.number(map[byte]int{'K': 1, 'M': 2, 'J': 4}[op])
		v = int64(n)
		if op == 'J' {
			v = int64(int32(n))
		}
	case 0x8a: // long integer
		v, err = u.long()
	case 'G':
		var raw []byte
		if raw, err = u.take(8); err == nil {
			v = math.Float64frombits(binary.BigEndian.Uint64(raw))
		}
	case 'X', 'T':
		v, err = u.text(4)
	case 'U', 0x8c:
		v, err = u.text(1)
	case '}':
		v = &pickleDict{map[string]any{}}
	case ']':
		v = &pickleList{}
	case ')':
		v = pickleTuple{}
	case 't':
		items, err = u.since()
		v = pickleTuple(items)
	case 0x85, 0x86, 0x87:
		items, err = u.tuple(int(op-0x85) + 1)
		v = pickleTuple(items)
	case 'q', 'r', 0x94:
		return u.remember(op)
	case 'h', 'j':
		n, err = u.number(map[byte]int{'h': 1, 'j': 4}[op])
		known := false
		if v, known = u.memo[n]; err == nil && !known {
			err = fmt.Errorf("the pickle refers to value %d, which is not there", n)
		}
	case 'c':
		var module, name string
		if module, err = u.line(); err == nil {
			name, err = u.line()
		}
		v = pickleGlobal(module + "." + name)
	case 0x93:
		if items, err = u.tuple(2); err == nil {
			v = pickleGlobal(fmt.Sprintf("%v.%v", items...))
		}
	case 'Q':
		if v, err = u.pop(); err == nil {
			id, ok := v.(pickleTuple)
			if !ok || u.persist == nil {
				return errors.New("the pickle has a persistent value that is not a storage")
			}
			v, err = u.persist(id)
		}
	case 'R':
		if items, err = u.tuple(2); err == nil {
			v, err = reduce(items[0], items[1])
		}
	case 'b': // attributes of a dictionary
		_, err = u.pop()
		return err
	case 'a', 'e', 's', 'u':
		return u.fill(op)
	default:
		return fmt.Errorf("the pickle has the opcode %#x, which a state dict does not need", op)
	}
	if err == nil {
		u.push(v)
	}
	return err
}

func (u *unpickler) long() (any, error) {
	n, err := u.number(1)
	if err != nil {
		return nil, err
	}
	raw, err := u.take(int(n))
	if err != nil {
		return nil, err
	}
	if len(raw) > 8 {
		return fmt.Sprintf("%x", raw), nil // the magic number of old files
	}
	var full [8]byte
	copy(full[:], raw)
	v := int64(binary.LittleEndian.Uint64(full[:]))
	if len(raw) > 0 && len(raw) < 8 && raw[len(raw)-1]&0x80 != 0 {
		v -= 1 << (8 * len(raw))
	}
	return v, nil
}

func (u *unpickler) remember(op byte) (err error) {
	n := uint32(len(u.memo))
	if op != 0x94 {
		if n, err = u.number(map[byte]int{'q': 1, 'r': 4}[op]); err != nil {
			return err
		}
	}
	if len(u.stack) == 0 {
		return errors.New("the pickle remembers a value that is not there")
	}
	u.memo[n] = u.stack[len(u.stack)-1]
	return nil
}

// fill adds to the list or dictionary below the values.
func (u *unpickler) fill(op byte) error {
	var items []any
	var err error
	switch op {
	case 'a':
		items, err = u.tuple(1)
	case 's':
		items, err = u.tuple(2)
	default:
		items, err = u.since()
	}
	if err != nil {
		return err
	}
	if len(u.stack) == 0 {
		return errors.New("the pickle fills a value that is not there")
	}
	switch to := u.stack[len(u.stack)-1].(type) {
	case *pickleList:
		if op == 'a' || op == 'e' {
			to.items = append(to.items, items...)
			return nil
		}
	case *pickleDict:
		if (op == 's' || op == 'u') && len(items)%2 == 0 {
			for i := 0; i < len(items); i += 2 {
				if key, ok := items[i].(string); ok {
					to.values[key] = items[i+1]
				}
			}
			return nil
		}
	}
	return errors.New("the pickle fills a value that holds nothing")
}

// reduce calls the few functions that make a state dict.
func reduce(f, args any) (any, error) {
	name, _ := f.(pickleGlobal)
	list, _ := args.(pickleTuple)
	switch name {
	case "collections.OrderedDict":
		return &pickleDict{map[string]any{}}, nil
	case "torch._utils._rebuild_parameter":
		if len(list) > 0 {
			return list[0], nil
		}
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2":
		if len(list) < 4 {
			break
		}
		storage, ok := list[0].(storageRef)
		offset, number := list[1].(int64)
		size, err := integers(list[2])
		steps, err2 := integers(list[3])
		if ok && number && err == nil && err2 == nil {
			return tensorRef{storage, offset, size, steps}, nil
		}
	default:
		return nil, fmt.Errorf("the pickle calls %q, which a state dict does not need", name)
	}
	return nil, fmt.Errorf("the pickle calls %s with other arguments than PyTorch does", name)
}

func integers(v any) ([]int64, error) {
	list, ok := v.(pickleTuple)
	out := make([]int64, len(list))
	for i, x := range list {
		if out[i], ok = x.(int64); !ok {
			return nil, errors.New("not a list of integers")
		}
	}
	if !ok && len(list) == 0 {
		return nil, errors.New("not a list of integers")
	}
	return out, nil
}
