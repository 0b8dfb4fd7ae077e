package weights

import (
	"encoding/binary"
	"fmt"
)

// exponents have the exponent's bits set, of one element of each floating-point type: where all of an element's are, it
// is infinite or NaN. F8_E4M3 has no infinity, and NaN where all bits but the sign are set.
var exponents = map[DType]uint64{F8E5M2: 0x7c, F8E4M3: 0x7f, F16: 0x7c00, BF16: 0x7f80, F32: 0x7f800000, F64: 0x7ff0000000000000}

// NotFinite is the number of the tensor's first element that is infinite or NaN, −1 where there is none. Whole numbers
// and booleans are finite; C64 and F8_E8M0 cannot be read so.
func (t Tensor) NotFinite() (int, error) {
	if t.DType == C64 || t.DType == F8E8M0 {
		return 0, t.errorf("%s values cannot be checked", t.DType)
	}
	data, err := t.Bytes()
	if err != nil {
		return 0, err
	}
	t.willNeed(data)
	first := -1
	err = guardFaults(func() error {
		first = notFinite(data, t.DType)
		return nil
	})
	t.release(data)
	if err != nil {
		return 0, t.errorf("%w", err)
	}
	return first, nil
}

// notFinite is NotFinite of data. It looks at eight bytes at a time, faster than a disk reads.
func notFinite(data []byte, d DType) int {
	exponent, ok := exponents[d]
	if !ok {
		return -1
	}
	size := d.Size()
	var mask, ones uint64 // the same in each element
	for at := 0; at < 64; at += 8 * size {
		mask, ones = mask|exponent<<at, ones|1<<at
	}
	tops := ones << (8*size - 1)
	at := 0
	for ; at+8 <= len(data); at += 8 {
		zero := ^binary.LittleEndian.Uint64(data[at:]) & mask // in an element that is not finite
		if (zero-ones)&^zero&tops != 0 {
			break
		}
	}
	for ; at+size <= len(data); at += size {
		var x uint64
		for i, b := range data[at : at+size] {
			x |= uint64(b) << (8 * i)
		}
		if x&exponent == exponent {
			return at / size
		}
	}
	return -1
}

func errNotFinite(element int) error {
	return fmt.Errorf("element %d is not a finite number: the weights are damaged", element)
}
