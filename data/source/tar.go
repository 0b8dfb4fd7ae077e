package source

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"fewstep/data/images"
	"fewstep/internal/text"
)

// largestText is the largest side file that is read: captions and JSON are of some kilobytes.
const largestText = 4 << 20

// indexTar indexes a webdataset tar: a sample's key is the path up to the first dot of the base name, what follows is the
// field, and the members of a sample stand together. join holds what a parquet file beside it says of each key; nil = there
// is none. A tar that is cut keeps its whole samples, and the cut is a flaw.
func indexTar(ctx context.Context, st store, o object, join *joined, opt Options) (*builder, error) {
	b := newBuilder()
	if o.size == 0 {
		b.skipped.add("shards without a sample", o.name)
		return b, nil
	}
	from := &streamReader{ctx: ctx, store: st, name: o.name, size: o.size}
	defer from.close()
	archive := tar.NewReader(from)
	var s sample
	flush := func() {
		if s.key != "" {
			s.add(b, join, opt)
		}
		s = sample{}
	}
	for {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if from.failed != nil { // reading, not the archive
				return nil, fmt.Errorf("%s: %w", st.address(o.name), from.failed)
			}
			if b.head.Rows == 0 && s.key == "" {
				return nil, fmt.Errorf("%s: not a readable tar file: %w; make or fetch it again", st.address(o.name), err)
			}
			b.flaw(o.name, fmt.Sprintf("the tar is damaged or cut after %d samples: %v", b.head.Rows, err))
			s = sample{}
			break
		}
		if head.Typeflag != tar.TypeReg {
			if head.Typeflag != tar.TypeDir {
				b.skipped.add("entries of tars that are no plain files", o.name+": "+head.Name)
			}
			continue
		}
		key, field := splitName(head.Name)
		if hidden(strings.TrimPrefix(head.Name, "./")) || strings.HasPrefix(path.Base(key), "__") && strings.HasSuffix(key, "__") {
			b.skipped.add("hidden entries", o.name+": "+head.Name)
			continue
		}
		if key != s.key {
			flush()
			s.key = key
		}
		at := place{Offset: from.at, Size: head.Size}
		if at.Offset+at.Size > o.size {
			b.flaw(o.name, fmt.Sprintf("the tar is cut in sample %s", key))
			s = sample{}
			break
		}
		if images.IsName("x." + lastPart(field)) {
			s.picture(field, at)
		} else if isText(lastPart(field)) && head.Size <= largestText {
			raw := make([]byte, head.Size)
			if _, err := io.ReadFull(archive, raw); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", st.address(o.name), head.Name, err)
			}
			s.side(lastPart(field), raw)
		} else {
			b.skipped.add("fields of tars that are neither images nor captions (."+lastPart(field)+")", o.name+": "+head.Name)
		}
	}
	flush()
	if join != nil {
		join.missing(b)
	}
	return b, nil
}

// splitName takes a member's name apart into key and field, in lower case.
func splitName(name string) (key, field string) {
	name = strings.TrimPrefix(name, "./")
	dir, base := path.Split(name)
	stem, field, _ := strings.Cut(base, ".")
	return dir + stem, strings.ToLower(field)
}

// lastPart is what follows a field's last dot: "jpg" of "input.jpg".
func lastPart(field string) string { return field[strings.LastIndexByte(field, '.')+1:] }

func isText(field string) bool {
	switch field {
	case "txt", "text", "caption", "prompt", "json":
		return true
	}
	return false
}

// sample is what stands together under one key.
type sample struct {
	key      string
	image    place
	field    string
	more     int // further images
	captions []string
	columns  map[string]any
	wrong    string // with its texts
}

func (s *sample) picture(field string, at place) {
	switch {
	case s.field == "":
		s.image, s.field = at, field
	case strings.Contains(s.field, ".") && !strings.Contains(field, "."): // "jpg" before "mask.png"
		s.image, s.field = at, field
		s.more++
	default:
		s.more++
	}
}

// side reads a side file of a kind: txt, text, caption, prompt or json. A text file's caption goes before JSON's.
func (s *sample) side(kind string, raw []byte) {
	content, err := text.Decode(raw)
	if err != nil {
		s.wrong = fmt.Sprintf(".%s: %v", kind, err)
		return
	}
	if kind != "json" {
		s.captions = append([]string{content}, s.captions...)
		return
	}
	var columns map[string]any
	if err := json.Unmarshal([]byte(content), &columns); err != nil {
		s.wrong = fmt.Sprintf(".json: %v", err)
		return
	}
	s.columns = columns
}

// add puts the sample into an index.
func (s *sample) add(b *builder, join *joined, opt Options) {
	if s.field == "" {
		b.skipped.add("samples without an image", s.key)
		return
	}
	b.skipped.addN("further images of a sample", s.key, s.more)
	e := entry{Row: Row{Key: s.key, Weight: 1}, place: s.image}
	if join != nil {
		if row, ok := join.rows[s.key]; ok {
			join.seen[s.key] = true
			e = row
			e.Key, e.place = s.key, s.image
		}
	}
	fromColumns(&e, s.columns)
	texts := nonEmpty(s.captions)
	if len(texts) > 0 {
		e.Caption, e.Also = texts[0], nil
	}
	if s.wrong != "" && e.Caption == "" {
		b.flaw(s.key, s.wrong)
		return
	}
	if e.Caption == "" && len(s.captions) == 0 && !opt.Uncaptioned {
		b.flaw(s.key, "no caption; write one to .txt, .caption or .json")
		return
	}
	b.add(e, opt.Uncaptioned)
}

func nonEmpty(texts []string) (out []string) {
	for _, t := range texts {
		if strings.TrimSpace(t) != "" {
			out = append(out, t)
		}
	}
	return out
}

// streamReader reads an object as tar.Reader wants it: forwards, with parts that are skipped. Short gaps of a remote object
// are read, longer ones are requested anew.
type streamReader struct {
	ctx    context.Context
	store  store
	name   string
	size   int64
	at     int64 // of the next byte
	body   io.ReadCloser
	bodyAt int64
	tries  int // without a byte
	failed error
}

const shortGap = 1 << 20

func (r *streamReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("a position before the start")
	}
	r.at = offset
	return offset, nil
}

func (r *streamReader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.body != nil && r.bodyAt != r.at {
		gap := r.at - r.bodyAt
		if seeker, ok := r.body.(io.Seeker); ok {
			if _, err := seeker.Seek(r.at, io.SeekStart); err != nil {
				r.failed = err
				return 0, err
			}
			r.bodyAt = r.at
		} else if gap > 0 && gap <= shortGap {
			n, err := io.CopyN(io.Discard, r.body, gap)
			r.bodyAt += n
			if err != nil {
				r.close()
			}
		} else {
			r.close()
		}
	}
	if r.body == nil {
		body, err := r.store.stream(r.ctx, r.name, r.at)
		if err != nil {
			r.failed = err
			return 0, err
		}
		r.body, r.bodyAt = body, r.at
	}
	n, err := r.body.Read(p)
	r.at, r.bodyAt = r.at+int64(n), r.bodyAt+int64(n)
	if n > 0 {
		r.tries = 0
	}
	if err == nil || r.at >= r.size {
		return n, err
	}
	// The connection, or the file, ended early.
	r.close()
	if n > 0 {
		return n, nil
	}
	if r.tries++; r.store.remote() && r.tries < 8 && r.ctx.Err() == nil {
		return r.Read(p)
	}
	r.failed = noEOF(err)
	return 0, r.failed
}

func (r *streamReader) close() {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
}
