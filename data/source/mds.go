package source

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"

	"fewstep/internal/text"

	"github.com/klauspost/compress/zstd"
)

// mdsIndex is MosaicML streaming's index.json, version 2.
type mdsIndex struct {
	Version int        `json:"version"`
	Shards  []mdsShard `json:"shards"`
}

type mdsShard struct {
	Format    string   `json:"format"`
	Samples   int      `json:"samples"`
	Names     []string `json:"column_names"`
	Encodings []string `json:"column_encodings"`
	Sizes     []*int64 `json:"column_sizes"` // null = the size stands before each sample
	Raw       mdsFile  `json:"raw_data"`
	Zip       *mdsFile `json:"zip_data"`
	Packed    *string  `json:"compression"`
}

type mdsFile struct {
	Name  string `json:"basename"`
	Bytes int64  `json:"bytes"`
}

// parseMDS reads an index.json; ok says whether it is an MDS data set's.
func parseMDS(raw []byte) (index mdsIndex, ok bool, err error) {
	content, err := text.Decode(raw)
	if err != nil {
		return index, false, err
	}
	if json.Unmarshal([]byte(content), &index) != nil || index.Shards == nil {
		return index, false, nil
	}
	if index.Version != 2 {
		return index, true, fmt.Errorf("MDS of version %d; version 2 is read", index.Version)
	}
	return index, true, nil
}

// indexMDS indexes a shard: uint32 count, uint32 offsets of count+1 samples, a JSON copy of the columns, the samples. A
// sample is the uint32 sizes of its columns that have no fixed one, then the columns' bytes.
func indexMDS(ctx context.Context, st store, o object, shard mdsShard, opt Options) (*builder, error) {
	b := newBuilder()
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s", st.address(o.name), fmt.Sprintf(format, args...))
	}
	if len(shard.Names) != len(shard.Encodings) || len(shard.Names) != len(shard.Sizes) {
		return nil, wrong("index.json lists %d columns, %d encodings and %d sizes", len(shard.Names), len(shard.Encodings), len(shard.Sizes))
	}
	image := -1
	for i, e := range shard.Encodings {
		switch e {
		case "jpeg", "png", "jpeg_array", "jpegarray":
			image = i
		case "pil":
			if image < 0 {
				return nil, wrong("column %s holds raw pixels (pil); write the data set with the encoding jpeg or png", shard.Names[i])
			}
		}
	}
	if name, ok := nameOf(shard.Names, imageNames); ok && image < 0 {
		for i, n := range shard.Names {
			if n == name && shard.Encodings[i] == "bytes" {
				image = i
			}
		}
	}
	if image < 0 {
		return nil, wrong("no image column: want the encoding jpeg or png, or bytes under the name image; have %s", strings.Join(shard.Names, ", "))
	}
	content, err := mdsContent(ctx, st, o, shard)
	if err != nil {
		return nil, wrong("%v", err)
	}
	if len(content) < 4 {
		return nil, wrong("a shard of %d bytes", len(content))
	}
	n := int(binary.LittleEndian.Uint32(content))
	if n != shard.Samples || len(content) < 8+4*n {
		return nil, wrong("a shard of %d samples, where index.json says %d; make or fetch it again", n, shard.Samples)
	}
	at := func(i int) int64 { return int64(binary.LittleEndian.Uint32(content[4+4*i:])) }
	for i := range n {
		from, to := at(i), at(i+1)
		if from > to || to > int64(len(content)) {
			return nil, wrong("sample %d lies outside the shard; make or fetch it again", i)
		}
		e := entry{Row: Row{Key: fmt.Sprintf("row%d", i), Weight: 1}}
		columns := map[string]any{}
		sizes, rest := from, int64(0)
		for _, size := range shard.Sizes {
			if size == nil {
				rest += 4
			}
		}
		data := from + rest
		for k, name := range shard.Names {
			var size int64
			if fixed := shard.Sizes[k]; fixed != nil {
				size = *fixed
			} else {
				if sizes+4 > to {
					return nil, wrong("sample %d is cut", i)
				}
				size = int64(binary.LittleEndian.Uint32(content[sizes:]))
				sizes += 4
			}
			if size < 0 || data+size > to {
				return nil, wrong("sample %d: column %s is longer than the sample", i, name)
			}
			if k == image {
				e.place = place{Offset: data, Size: size}
			} else if v, ok := mdsValue(shard.Encodings[k], content[data:data+size]); ok {
				columns[name] = v
			}
			data += size
		}
		if name, ok := nameOf(keysOf(columns), keyNames); ok {
			e.Key = fmt.Sprint(columns[name])
		}
		fromColumns(&e, columns)
		b.add(e, opt.Uncaptioned)
	}
	return b, nil
}

func keysOf(m map[string]any) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

// mdsValue reads a text or a number.
func mdsValue(encoding string, raw []byte) (any, bool) {
	little := binary.LittleEndian
	switch encoding {
	case "str":
		s, err := text.Decode(raw)
		return s, err == nil
	case "json":
		var v any
		return v, json.Unmarshal(raw, &v) == nil
	case "str_int", "str_float":
		var v float64
		_, err := fmt.Sscan(string(raw), &v)
		return v, err == nil
	case "int", "int64":
		if len(raw) == 8 {
			return int64(little.Uint64(raw)), true
		}
	case "int32":
		if len(raw) == 4 {
			return int64(int32(little.Uint32(raw))), true
		}
	case "float32":
		if len(raw) == 4 {
			return float64(math.Float32frombits(little.Uint32(raw))), true
		}
	case "float64":
		if len(raw) == 8 {
			return math.Float64frombits(little.Uint64(raw)), true
		}
	}
	return nil, false
}

// mdsContent reads a shard, unpacked.
func mdsContent(ctx context.Context, st store, o object, shard mdsShard) ([]byte, error) {
	raw, err := readAll(ctx, st, o)
	if err != nil || shard.Zip == nil || path.Base(o.name) != path.Base(shard.Zip.Name) {
		return raw, err
	}
	if shard.Packed == nil || !strings.HasPrefix(*shard.Packed, "zstd") {
		return nil, errors.New("compressed otherwise than with zstd; unpack it")
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(raw, nil)
}
