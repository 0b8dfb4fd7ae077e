package stats

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"

	"gonum.org/v1/gonum/mat"

	"fewstep/internal/atomicfile"
)

// maxDims bounds the dimensions of a statistics file; 16,384² float64 are 2 GiB.
const maxDims = 1 << 14

// WriteNPZ saves moments as numpy's .npz with the arrays that pytorch-fid and
// clean-fid read, `mu` [dims] and `sigma` [dims, dims], both float64, and `n`,
// the number of samples (0: unknown), which they ignore. The bytes depend on
// the moments only.
func WriteNPZ(path string, m *Moments) error {
	if m.count < 2 && !m.given {
		return fmt.Errorf("%s: statistics of %d samples have no covariance, 2 or more are needed", path, m.count)
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		z := zip.NewWriter(w)
		cov := m.Covariance()
		sigma := make([]float64, 0, m.dims*m.dims)
		for i := range m.dims {
			for j := range m.dims {
				sigma = append(sigma, cov.At(i, j))
			}
		}
		if err := writeArray(z, "mu", fmt.Sprintf("(%d,)", m.dims), m.mean); err != nil {
			return err
		}
		if err := writeArray(z, "sigma", fmt.Sprintf("(%d, %d)", m.dims, m.dims), sigma); err != nil {
			return err
		}
		if err := writeArray(z, "n", "()", []float64{float64(m.count)}); err != nil {
			return err
		}
		return z.Close()
	})
}

// writeArray adds a version 1.0 .npy member of little-endian float64.
func writeArray(z *zip.Writer, name, shape string, values []float64) error {
	w, err := z.CreateHeader(&zip.FileHeader{Name: name + ".npy", Method: zip.Store})
	if err != nil {
		return err
	}
	header := fmt.Sprintf("{'descr': '<f8', 'fortran_order': False, 'shape': %s, }", shape)
	const prefix = 10 // magic, version, header length
	pad := 64 - (prefix+len(header)+1)%64
	header += strings.Repeat(" ", pad%64) + "\n"
	start := binary.LittleEndian.AppendUint16([]byte("\x93NUMPY\x01\x00"), uint16(len(header)))
	if _, err := w.Write(append(start, header...)); err != nil {
		return err
	}
	buf := make([]byte, 0, 8*1024)
	for i, v := range values {
		buf = binary.LittleEndian.AppendUint64(buf, math.Float64bits(v))
		if len(buf) == cap(buf) || i == len(values)-1 {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	return nil
}

// ReadNPZ reads statistics written by [WriteNPZ], pytorch-fid or clean-fid:
// arrays `mu` and `sigma` of float32 or float64 in either byte order, stored
// or deflated. Without an array `n` the sample count is unknown (0).
func ReadNPZ(path string) (*Moments, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := readNPZ(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func readNPZ(r io.ReaderAt, size int64) (*Moments, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("not an .npz statistics file: %w", err)
	}
	members := map[string]*zip.File{}
	for _, member := range z.File {
		members[strings.TrimSuffix(member.Name, ".npy")] = member
	}
	for _, name := range []string{"mu", "sigma"} {
		if members[name] == nil {
			return nil, fmt.Errorf("array %q is missing: want statistics with mu and sigma, as pytorch-fid saves them", name)
		}
	}
	shape, mu, err := readArray(members["mu"])
	if err != nil {
		return nil, err
	}
	if len(shape) != 1 || shape[0] == 0 || shape[0] > maxDims {
		return nil, fmt.Errorf("array mu has shape %v, want 1 axis of 1 to %d", shape, maxDims)
	}
	dims := shape[0]
	shape, sigma, err := readArray(members["sigma"])
	if err != nil {
		return nil, err
	}
	if len(shape) != 2 || shape[0] != dims || shape[1] != dims {
		return nil, fmt.Errorf("array sigma has shape %v, want [%d %d] to go with mu", shape, dims, dims)
	}
	var count int64
	if members["n"] != nil {
		_, n, err := readArray(members["n"])
		if err != nil {
			return nil, err
		}
		if len(n) != 1 || n[0] != math.Trunc(n[0]) || n[0] < 0 || n[0] > 1<<53 {
			return nil, fmt.Errorf("array n is %v, want one sample count", n)
		}
		count = int64(n[0])
	}
	sym := mat.NewSymDense(dims, nil)
	for i := range dims {
		for j := i; j < dims; j++ {
			a, b := sigma[i*dims+j], sigma[j*dims+i]
			if math.Abs(a-b) > 1e-3*(math.Abs(a)+math.Abs(b))+1e-6 {
				return nil, fmt.Errorf("array sigma is not symmetric: %g at (%d, %d), %g at (%d, %d)", a, i, j, b, j, i)
			}
			sym.SetSym(i, j, 0.5*(a+b))
		}
	}
	return FromMeanCovariance(mu, sym, count)
}

var (
	npyDescr = regexp.MustCompile(`'descr'\s*:\s*'([<>|=]?)([a-z]\d+)'`)
	npyOrder = regexp.MustCompile(`'fortran_order'\s*:\s*(True|False)`)
	npyShape = regexp.MustCompile(`'shape'\s*:\s*\(([\d,\sL]*)\)`)
)

// readArray decodes one .npy member. A symmetric matrix reads the same in
// either order, so fortran_order only matters to the caller if it is not one.
func readArray(member *zip.File) (shape []int, values []float64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("array %s: %w", strings.TrimSuffix(member.Name, ".npy"), err)
		}
	}()
	r, err := member.Open()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	var start [8]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return nil, nil, fmt.Errorf("truncated .npy header: %w", err)
	}
	if string(start[:6]) != "\x93NUMPY" {
		return nil, nil, errors.New("not in numpy's .npy format")
	}
	length := make([]byte, 2)
	if start[6] >= 2 {
		length = make([]byte, 4)
	}
	if _, err := io.ReadFull(r, length); err != nil {
		return nil, nil, fmt.Errorf("truncated .npy header: %w", err)
	}
	n := uint32(binary.LittleEndian.Uint16(length))
	if len(length) == 4 {
		n = binary.LittleEndian.Uint32(length)
	}
	if n > 1<<16 {
		return nil, nil, fmt.Errorf(".npy header of %d bytes is not plausible", n)
	}
	header := make([]byte, n)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, nil, fmt.Errorf("truncated .npy header: %w", err)
	}
	descr, order, dims := npyDescr.FindSubmatch(header), npyOrder.FindSubmatch(header), npyShape.FindSubmatch(header)
	if descr == nil || order == nil || dims == nil {
		return nil, nil, fmt.Errorf("unreadable .npy header %q", header)
	}
	elements := 1
	for field := range strings.FieldsFuncSeq(string(dims[1]), func(c rune) bool { return !('0' <= c && c <= '9') }) {
		axis, err := strconv.Atoi(field)
		if err != nil || axis > maxDims {
			return nil, nil, fmt.Errorf("shape (%s) is larger than %d", dims[1], maxDims)
		}
		if len(shape) == 2 {
			return nil, nil, fmt.Errorf("shape (%s) has more than 2 axes", dims[1])
		}
		shape = append(shape, axis)
		elements *= axis
	}
	var order64 binary.ByteOrder = binary.LittleEndian
	if string(descr[1]) == ">" {
		order64 = binary.BigEndian
	}
	width := map[string]int{"f4": 4, "f8": 8, "i4": 4, "i8": 8}[string(descr[2])]
	if width == 0 {
		return nil, nil, fmt.Errorf("element type %s%s is not supported, want float32 or float64", descr[1], descr[2])
	}
	raw, err := io.ReadAll(io.LimitReader(r, int64(elements)*int64(width)))
	if err != nil {
		return nil, nil, err
	}
	if len(raw) != elements*width {
		return nil, nil, fmt.Errorf("truncated: %d bytes of data, want %d", len(raw), elements*width)
	}
	values = make([]float64, elements)
	for i := range values {
		b := raw[i*width:]
		switch string(descr[2]) {
		case "f4":
			values[i] = float64(math.Float32frombits(order64.Uint32(b)))
		case "f8":
			values[i] = math.Float64frombits(order64.Uint64(b))
		case "i4":
			values[i] = float64(int32(order64.Uint32(b)))
		case "i8":
			values[i] = float64(int64(order64.Uint64(b)))
		}
	}
	return shape, values, nil
}
