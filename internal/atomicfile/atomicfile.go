// Package atomicfile saves files so that a reader sees the old content or the
// new one, complete, never a part: the content goes to a temporary file in the
// same folder, its length is checked, it is synced and closed, renamed over the
// target, and the folder is synced, so the result survives a power cut.
//
// A process killed while writing leaves the target as it was and one hidden
// temporary file behind, which CleanTemp or the next writer in that folder removes.
package atomicfile

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	tempPrefix  = ".fewstep-tmp-"
	bufferBytes = 1 << 20
)

// Write replaces path by what fill writes. Missing parent folders are created.
// An existing file keeps its permission bits; a new one gets 0666 less the
// umask. A symbolic link at path is replaced, not followed.
//
// When fill or any step fails, path is untouched, the temporary file is removed
// and the error names path and wraps the cause. fill must not keep the writer.
// The writer is an io.WriterAt too, for what is known only after the rest: it
// replaces bytes that have been written.
func Write(path string, fill func(w io.Writer) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write %s: %w", path, explain(err))
		}
	}()
	dir := filepath.Dir(path)
	if err := MakeDir(dir); err != nil {
		return err
	}
	sweep(dir)
	f, err := createTemp(dir, modeFor(path))
	if err != nil {
		return err
	}
	temp := f.Name()
	renamed := false
	defer func() { // also when fill panics
		if !renamed {
			f.Close()
			os.Remove(temp)
		}
	}()

	counter := &countingWriter{w: f}
	buf := &writer{bufio.NewWriterSize(counter, bufferBytes), f}
	if err := fill(buf); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != counter.n {
		return fmt.Errorf("wrote %d bytes but the file holds %d", counter.n, info.Size())
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	renamed = true
	return SyncDir(dir)
}

// WriteBytes replaces path by data. It is Write with a ready content.
func WriteBytes(path string, data []byte) error {
	return Write(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

func modeFor(path string) fs.FileMode {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		return info.Mode().Perm()
	}
	return 0
}

// createTemp opens a new hidden file in dir. keep, when not zero, is the exact
// mode it gets; otherwise the umask decides.
func createTemp(dir string, keep fs.FileMode) (*os.File, error) {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, tempPrefix+hex.EncodeToString(random[:]))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	hold(f)
	if keep != 0 {
		if err := f.Chmod(keep); err != nil {
			f.Close()
			os.Remove(name)
			return nil, err
		}
	}
	return f, nil
}

// MakeDir creates dir and its missing parents and makes the new entries durable.
func MakeDir(dir string) error {
	var created []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		_, err := os.Stat(d)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		created = append(created, d)
		if filepath.Dir(d) == d {
			break
		}
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, d := range created {
		if err := SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the names in dir durable. File systems that cannot sync a
// folder answer EINVAL or ENOTSUP; there is nothing more to do on those, nor in
// a folder that may be written but not listed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// explain adds what to do to the failures a user can mend.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("no space left on the disk: free some or choose another folder: %w", err)
	case errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk quota is used up: free some space or choose another folder: %w", err)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("the file is larger than the file system or a limit of the shell (ulimit -f) allows: %w", err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the file system is read-only: choose another folder: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission: change the folder's permissions or choose another folder: %w", err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("a part of the path is a file, not a folder: %w", err)
	}
	return err
}

type writer struct {
	*bufio.Writer
	file *os.File
}

func (w *writer) WriteAt(p []byte, at int64) (int, error) {
	if err := w.Flush(); err != nil {
		return 0, err
	}
	return w.file.WriteAt(p, at)
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
