package inception

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
)

// maxPTH bounds a .pth file; the published one has 95 MB.
const maxPTH = 1 << 29

// pth is a state dict saved by torch.save, in either of its formats.
type pth struct {
	sha256   string
	tensors  map[string]tensorRef
	storages map[string][]byte // raw little-endian numbers by key
}

func openPTH(file string) (*pth, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxPTH {
		return nil, fmt.Errorf("%s: %d bytes are too many for an Inception network", file, info.Size())
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p, err := readPTH(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: not a state dict saved by PyTorch: %w", file, err)
	}
	return p, nil
}

func readPTH(raw []byte) (*pth, error) {
	sum := sha256.Sum256(raw)
	p := &pth{sha256: hex.EncodeToString(sum[:]), tensors: map[string]tensorRef{}, storages: map[string][]byte{}}
	read := p.readOld
	if bytes.HasPrefix(raw, []byte("PK")) {
		read = p.readZip
	}
	top, err := read(raw)
	if err != nil {
		return nil, err
	}
	dict, ok := top.(*pickleDict)
	if !ok {
		return nil, errors.New("it holds no dictionary")
	}
	for name, v := range dict.values {
		if t, ok := v.(tensorRef); ok {
			p.tensors[name] = t
		}
	}
	return p, nil
}

// persist takes the storages that a pickle names: ("storage", type, key, place, count, …).
func persist(id []any) (any, error) {
	if len(id) >= 5 && id[0] == "storage" {
		kind, ok := id[1].(pickleGlobal)
		key, ok2 := id[2].(string)
		count, ok3 := id[4].(int64)
		if ok && ok2 && ok3 {
			return storageRef{string(kind), key, count}, nil
		}
	}
	return nil, errors.New("the pickle has a persistent value that is not a storage")
}

// readZip reads the format since PyTorch 1.6: an archive of data.pkl and a file for each storage.
func (p *pth) readZip(raw []byte) (any, error) {
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		return nil, err
	}
	var pickle []byte
	for _, f := range z.File {
		dir, name := path.Split(f.Name)
		if name != "data.pkl" && !strings.HasSuffix(dir, "/data/") {
			continue
		}
		if f.Method != zip.Store || f.UncompressedSize64 > uint64(len(raw)) {
			return nil, fmt.Errorf("its member %s is compressed, which PyTorch does not do", f.Name)
		}
		r, err := f.Open()
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(io.LimitReader(r, int64(len(raw))))
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("its member %s: %w", f.Name, err)
		}
		if name == "data.pkl" {
			pickle = content
		} else {
			p.storages[name] = content
		}
	}
	if pickle == nil {
		return nil, errors.New("it has no data.pkl")
	}
	return (&unpickler{data: pickle, persist: persist}).load()
}

// oldMagic begins the older format, as the long integer in its first pickle has it.
const oldMagic = "6cfc9c46f9206aa85019"

// readOld reads the format before PyTorch 1.6: five pickles (magic number, protocol, system, state dict, order of the
// storages), then the storages, each after its count.
func (p *pth) readOld(raw []byte) (any, error) {
	u := &unpickler{data: raw, persist: persist}
	var parts [5]any
	for i := range parts {
		var err error
		if parts[i], err = u.load(); err != nil {
			return nil, err
		}
		if i == 0 && parts[0] != oldMagic {
			return nil, errors.New("it does not begin with PyTorch's magic number")
		}
	}
	order, ok := parts[4].(*pickleList)
	if !ok {
		return nil, errors.New("it lists no storages")
	}
	widths := map[string]int64{}
	if dict, ok := parts[3].(*pickleDict); ok {
		for _, v := range dict.values {
			if t, ok := v.(tensorRef); ok {
				widths[t.storage.key] = storageWidth(t.storage.kind)
			}
		}
	}
	for _, k := range order.items {
		key, ok := k.(string)
		width := widths[key]
		if !ok || width == 0 {
			return nil, fmt.Errorf("its storage %v is of no known tensor", k)
		}
		head, err := u.take(8)
		if err != nil {
			return nil, err
		}
		count := binary.LittleEndian.Uint64(head)
		if count > uint64(len(raw)) {
			return nil, fmt.Errorf("its storage %s has %d numbers", key, count)
		}
		if p.storages[key], err = u.take(int(count) * int(width)); err != nil {
			return nil, err
		}
	}
	return parts[3], nil
}

// storageWidth is the number of bytes of a number, 0 for types that no state dict of ours has.
func storageWidth(kind string) int64 {
	return map[string]int64{"torch.FloatStorage": 4, "torch.LongStorage": 8, "torch.HalfStorage": 2, "torch.DoubleStorage": 8}[kind]
}

// float32 returns a tensor's shape and values.
func (p *pth) float32(name string) (shape []int, values []float32, err error) {
	t, ok := p.tensors[name]
	if !ok {
		return nil, nil, fmt.Errorf("no tensor %q", name)
	}
	if t.storage.kind != "torch.FloatStorage" {
		return nil, nil, fmt.Errorf("tensor %q is of %s, want torch.FloatStorage", name, t.storage.kind)
	}
	size := int64(1)
	for i := len(t.size) - 1; i >= 0; i-- {
		if t.size[i] < 0 || t.size[i] > maxPTH || len(t.steps) != len(t.size) || t.size[i] > 1 && t.steps[i] != size {
			return nil, nil, fmt.Errorf("tensor %q has the sizes %v and strides %v: it is not contiguous", name, t.size, t.steps)
		}
		if size *= t.size[i]; size > maxPTH {
			return nil, nil, fmt.Errorf("tensor %q has the sizes %v: it is too large", name, t.size)
		}
	}
	raw := p.storages[t.storage.key]
	if t.offset < 0 || t.offset > maxPTH || (t.offset+size)*4 > int64(len(raw)) {
		return nil, nil, fmt.Errorf("tensor %q lies outside its storage", name)
	}
	raw = raw[t.offset*4:]
	values = make([]float32, size)
	for i := range values {
		values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	for _, d := range t.size {
		shape = append(shape, int(d))
	}
	return shape, values, nil
}
