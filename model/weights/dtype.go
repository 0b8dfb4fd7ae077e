// Package weights reads and writes safetensors files, single or sharded, and
// finds the weight file of a component folder in a diffusers pipeline.
//
// A safetensors file is an 8-byte little-endian header size, a JSON header that
// maps each tensor name to its dtype, shape and byte range, and the data, which
// the tensors fill without holes or overlap
// (https://github.com/huggingface/safetensors#format).
package weights

// DType is a tensor's element type by its safetensors name.
type DType string

// The element types that occur in model files. Each has a whole number of
// bytes; packed sub-byte types are refused as unknown.
const (
	Bool   DType = "BOOL"
	U8     DType = "U8"
	I8     DType = "I8"
	F8E5M2 DType = "F8_E5M2"
	F8E4M3 DType = "F8_E4M3"
	F8E8M0 DType = "F8_E8M0"
	I16    DType = "I16"
	U16    DType = "U16"
	F16    DType = "F16"
	BF16   DType = "BF16"
	I32    DType = "I32"
	U32    DType = "U32"
	F32    DType = "F32"
	C64    DType = "C64"
	F64    DType = "F64"
	I64    DType = "I64"
	U64    DType = "U64"
)

// layout holds the bytes per element and the place in the reference
// implementation's order, which sorts by alignment first; files are written
// with the highest rank in front.
type layout struct{ size, rank int }

var layouts = map[DType]layout{
	Bool: {1, 0}, U8: {1, 1}, I8: {1, 2}, F8E5M2: {1, 3}, F8E4M3: {1, 4}, F8E8M0: {1, 5},
	I16: {2, 6}, U16: {2, 7}, F16: {2, 8}, BF16: {2, 9},
	I32: {4, 10}, U32: {4, 11}, F32: {4, 12},
	C64: {8, 13}, F64: {8, 14}, I64: {8, 15}, U64: {8, 16},
}

// Size is the number of bytes per element, 0 for an unknown type.
func (d DType) Size() int { return layouts[d].size }

// Known says whether this package can read and write tensors of type d.
func (d DType) Known() bool { return layouts[d].size > 0 }

// Float says whether the elements are floating-point numbers that Float32 can read.
func (d DType) Float() bool {
	switch d {
	case F8E5M2, F8E4M3, F16, BF16, F32, F64:
		return true
	}
	return false
}
