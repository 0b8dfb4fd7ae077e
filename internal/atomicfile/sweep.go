package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A writer holds a lock (flock) on its temporary file or folder, which the kernel drops when the process ends, however it
// ends. A temporary file that can be locked is therefore of a killed writer.

// swept are the folders that this process has looked through.
var swept sync.Map

// sweep removes what killed writers left in dir, once per process. A file younger than a minute may be of a writer that has
// not come to lock it. It is done on the way to something else, so it has no errors.
func sweep(dir string) {
	if _, done := swept.LoadOrStore(dir, true); !done {
		_ = clean(dir, time.Now().Add(-time.Minute))
	}
}

// CleanTemp removes the temporary files and folders that killed writers left directly in dir. A missing dir is
// already clean.
func CleanTemp(dir string) error { return clean(dir, time.Now().Add(time.Hour)) }

// clean removes temporary files last changed before a time that no writer holds.
func clean(dir string, before time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for temporary files: %w", err)
	}
	var failed error
	for _, e := range entries {
		if !(e.Type().IsRegular() || e.IsDir()) || !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if info, err := e.Info(); err != nil || info.ModTime().After(before) || held(path) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			failed = errors.Join(failed, fmt.Errorf("cannot remove a temporary file: %w", err))
		}
	}
	return failed
}

// held says whether a writer has locked a temporary file. Where the file system has no locks nobody can.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// hold locks a temporary file or folder for as long as f is open; without locks in the file system it does nothing.
func hold(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
