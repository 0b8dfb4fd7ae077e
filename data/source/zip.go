package source

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// zipped is a zip file as a store of its members, as COCO's images are distributed.
type zipped struct {
	path    string // for messages
	stamp   string
	members map[string]*zip.File
	names   []string
}

func openZip(ctx context.Context, st store, o object) (*zipped, error) {
	r, err := zip.NewReader(storeReader{context.WithoutCancel(ctx), st, o.name}, o.size) // which reads as long as the source is open
	if err != nil {
		return nil, fmt.Errorf("%s: not a readable zip file: %w; make or fetch it again", st.address(o.name), err)
	}
	z := &zipped{path: st.address(o.name), stamp: o.stamp, members: map[string]*zip.File{}}
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") {
			z.members[f.Name] = f
			z.names = append(z.names, f.Name)
		}
	}
	slices.Sort(z.names)
	return z, nil
}

func (z *zipped) object(name string) object {
	f := z.members[name]
	return object{name, int64(f.UncompressedSize64), fmt.Sprintf("%s-%08x", z.stamp, f.CRC32)}
}

func (z *zipped) list(_ context.Context, prefix string) (out []object, err error) {
	for _, name := range z.names {
		if strings.HasPrefix(name, prefix) {
			out = append(out, z.object(name))
		}
	}
	return out, nil
}

func (z *zipped) stat(_ context.Context, name string) (object, error) {
	if z.members[name] == nil {
		return object{}, fmt.Errorf("%s: %w", z.address(name), fs.ErrNotExist)
	}
	return z.object(name), nil
}

func (z *zipped) stream(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	f := z.members[name]
	if f == nil {
		return nil, fmt.Errorf("%s: %w", z.address(name), fs.ErrNotExist)
	}
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (z *zipped) readAt(ctx context.Context, name string, p []byte, offset int64) error {
	r, err := z.stream(ctx, name, offset)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.ReadFull(r, p); err != nil {
		return noEOF(err)
	}
	return nil
}

func (z *zipped) address(name string) string { return z.path + "/" + name }
func (z *zipped) remote() bool               { return false }
