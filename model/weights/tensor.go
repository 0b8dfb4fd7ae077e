package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"runtime/debug"
)

// Tensor is one named array, row-major and little-endian as in the file.
//
// Data of a tensor that came from a File points into the mapped file: it is
// read-only and valid until the File is closed.
type Tensor struct {
	Name  string
	DType DType
	Shape []int // empty for a scalar
	Data  []byte

	// Fill gives the data of a tensor whose Data is nil, so that Write can
	// stream files larger than memory. It may be called more than once and must
	// give the same bytes each time; they are not kept.
	Fill func() ([]byte, error)

	file *File
}

// Elements is the product of the shape, 1 for a scalar.
func (t Tensor) Elements() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes is the tensor's data, from Data or Fill, of the length that dtype and
// shape ask for.
func (t Tensor) Bytes() ([]byte, error) {
	size, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return nil, t.errorf("%w", err)
	}
	if t.file != nil && t.file.closed.Load() {
		return nil, t.errorf("the file was closed")
	}
	data := t.Data
	if data == nil && t.Fill != nil {
		if data, err = t.Fill(); err != nil {
			return nil, t.errorf("%w", err)
		}
	}
	if uint64(len(data)) != size {
		return nil, t.errorf("%d bytes of data, but %s%v needs %d", len(data), t.DType, t.Shape, size)
	}
	return data, nil
}

// Float32 copies the tensor's elements, row-major, rounding F64 and wide
// integers to the nearest float32. C64 and F8_E8M0 cannot be read so.
func (t Tensor) Float32() ([]float32, error) {
	data, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	var values []float32
	t.willNeed(data)
	err = guardFaults(func() (err error) {
		values, err = decode(data, t.DType)
		return err
	})
	t.release(data)
	if err != nil {
		return nil, t.errorf("%w", err)
	}
	return values, nil
}

// Finite is Float32 with an error that names the tensor where a value is NaN or infinite, which no model can be run with.
func (t Tensor) Finite() ([]float32, error) {
	values, err := t.Float32()
	if err != nil {
		return nil, err
	}
	for i, v := range values {
		if v-v != 0 {
			return nil, t.errorf("%w", errNotFinite(i))
		}
	}
	return values, nil
}

// FromFloat32 makes a tensor of v, which has shape's element count, in F16,
// BF16, F32 or F64, rounding to nearest with ties to even. What Encode refuses
// comes back as the error of Bytes, Float32 and Write.
func FromFloat32(name string, shape []int, v []float32, to DType) Tensor {
	t := Tensor{Name: name, DType: to, Shape: append([]int{}, shape...)}
	data, err := Encode(v, to)
	if err != nil {
		t.Fill = func() ([]byte, error) { return nil, err }
		return t
	}
	t.Data = data
	return t
}

// Encode converts v to F16, BF16, F32 or F64, rounding to nearest with ties to
// even. Infinities and NaN stay what they are; a finite value beyond the type's
// range is an error, because it would silently break a model.
func Encode(v []float32, to DType) ([]byte, error) { return encodeFrom(v, to, 0) }

// encodeFrom is Encode of elements from number first on, for messages.
func encodeFrom(v []float32, to DType, first int) ([]byte, error) {
	le := binary.LittleEndian
	out := make([]byte, len(v)*to.Size())
	switch to {
	case F32:
		for i, x := range v {
			le.PutUint32(out[4*i:], math.Float32bits(x))
		}
	case F64:
		for i, x := range v {
			le.PutUint64(out[8*i:], math.Float64bits(float64(x)))
		}
	case F16:
		for i, x := range v {
			h := f16Bits(x)
			if h&0x7fff == 0x7c00 && !math.IsInf(float64(x), 0) {
				return nil, overflowError(first+i, x, to)
			}
			le.PutUint16(out[2*i:], h)
		}
	case BF16:
		for i, x := range v {
			h := bf16Bits(x)
			if h&0x7fff == 0x7f80 && !math.IsInf(float64(x), 0) {
				return nil, overflowError(first+i, x, to)
			}
			le.PutUint16(out[2*i:], h)
		}
	default:
		return nil, fmt.Errorf("cannot convert float32 to %q: choose F16, BF16, F32 or F64", to)
	}
	return out, nil
}

func overflowError(i int, x float32, to DType) error {
	return fmt.Errorf("element %d is %g, beyond the range of %s: write a wider dtype", i, x, to)
}

func decode(data []byte, from DType) ([]float32, error) {
	size := from.Size()
	if size == 0 {
		return nil, fmt.Errorf("unknown dtype %q", from)
	}
	le := binary.LittleEndian
	out := make([]float32, len(data)/size)
	switch from {
	case F32:
		for i := range out {
			out[i] = math.Float32frombits(le.Uint32(data[4*i:]))
		}
	case F16:
		table := f16Table()
		for i := range out {
			out[i] = table[le.Uint16(data[2*i:])]
		}
	case BF16:
		for i := range out {
			out[i] = bf16Value(le.Uint16(data[2*i:]))
		}
	case F64:
		for i := range out {
			out[i] = float32(math.Float64frombits(le.Uint64(data[8*i:])))
		}
	case F8E4M3:
		for i, b := range data {
			out[i] = f8e4m3Value(b)
		}
	case F8E5M2:
		for i, b := range data {
			out[i] = f8e5m2Value(b)
		}
	case Bool, U8:
		for i, b := range data {
			out[i] = float32(b)
		}
	case I8:
		for i, b := range data {
			out[i] = float32(int8(b))
		}
	case U16:
		for i := range out {
			out[i] = float32(le.Uint16(data[2*i:]))
		}
	case I16:
		for i := range out {
			out[i] = float32(int16(le.Uint16(data[2*i:])))
		}
	case U32:
		for i := range out {
			out[i] = float32(le.Uint32(data[4*i:]))
		}
	case I32:
		for i := range out {
			out[i] = float32(int32(le.Uint32(data[4*i:])))
		}
	case U64:
		for i := range out {
			out[i] = float32(le.Uint64(data[8*i:]))
		}
	case I64:
		for i := range out {
			out[i] = float32(int64(le.Uint64(data[8*i:])))
		}
	default:
		return nil, fmt.Errorf("%s cannot be read as float32", from)
	}
	return out, nil
}

// byteSize is the length of the data that dtype and shape describe.
func byteSize(d DType, shape []int) (uint64, error) {
	if !d.Known() {
		return 0, fmt.Errorf("unknown dtype %q", d)
	}
	n := uint64(d.Size())
	for _, dim := range shape {
		if dim < 0 {
			return 0, fmt.Errorf("negative dimension in shape %v", shape)
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		n = lo
	}
	return n, nil
}

// willNeed has the data read from the disk ahead, if it is a part of the mapped file.
func (t Tensor) willNeed(data []byte) {
	if t.Data != nil && t.file != nil {
		willNeed(t.file.mapping, data)
	}
}

// release lets data go that has been read: a mapped file would otherwise grow into memory as a whole.
func (t Tensor) release(data []byte) {
	if t.Data != nil && t.file != nil {
		release(t.file.mapping, data)
	}
}

func (t Tensor) errorf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if t.file != nil {
		return fmt.Errorf("%s: tensor %s: %w", t.file.path, t.Name, err)
	}
	return fmt.Errorf("tensor %s: %w", t.Name, err)
}

// guardFaults runs read, which touches mapped memory, and turns the fault that
// a file truncated meanwhile causes into an error.
func guardFaults(read func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(interface{ Addr() uintptr }); !ok {
				panic(r)
			}
			err = errors.New("the data cannot be read: the file was truncated or its disk failed")
		}
	}()
	return read()
}
