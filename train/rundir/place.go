package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Gone says that the run directory, or a file that a training process holds open in it, is no longer what the process
// opened: it was renamed, removed or replaced from outside.
type Gone struct{ Path, What string }

func (e *Gone) Error() string {
	return fmt.Sprintf("%s %s while the run was going on, so nothing more is saved; put it back, and the same command goes on from the newest checkpoint in it", e.Path, e.What)
}

// inPlace compares the run directory and its lock with those that were opened. Every save begins with it: without, a save
// would make the folders of a directory that was moved away anew, in its old place.
func (d *Dir) inPlace() error {
	if err := same(d.root, d.info); err != nil {
		return err
	}
	if d.readOnly != nil {
		return d.readOnly
	}
	if d.lock == nil {
		return nil
	}
	info, err := d.lock.Stat()
	if err != nil {
		return err
	}
	return same(d.Path(lockName), info)
}

// explain replaces the error of a save in whose middle the run directory was pulled away by one that says so.
func (d *Dir) explain(err *error) {
	var gone *Gone
	if *err != nil && errors.As(d.inPlace(), &gone) {
		*err = gone
	}
}

// removeGhost removes the empty folders above one that was written where the run directory no longer is.
func (d *Dir) removeGhost(folder string) {
	var gone *Gone
	if !errors.As(d.inPlace(), &gone) {
		return
	}
	for dir := filepath.Dir(folder); len(dir) >= len(d.root) && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
}

func same(path string, was fs.FileInfo) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Gone{path, "was renamed or removed"}
	case err != nil:
		return err
	case !os.SameFile(info, was):
		return &Gone{path, "was replaced by another one"}
	}
	return nil
}

// readOnlyDisk says whether an error is that of a file system or a folder in which nothing can be written.
func readOnlyDisk(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

// rel is a path below the run directory as it is told of, and as it is set aside under.
func (d *Dir) rel(path string) string {
	rel, err := filepath.Rel(d.root, path)
	if err != nil {
		return path
	}
	return filepath.ToSlash(rel)
}
