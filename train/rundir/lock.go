package rundir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Locked says that another process trains in the run directory.
type Locked struct {
	Dir string
	PID int // 0 where the lock file does not name it
}

func (e *Locked) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("run directory %s is in use by %s; wait for it or stop it first", e.Dir, who)
}

// acquire takes the advisory lock of a run directory. The kernel drops it when
// the process ends, however it ends, so a lock is never stale. A file system
// without locks yields a note instead of an error.
func acquire(dir string) (f *os.File, note string, err error) {
	path := filepath.Join(dir, lockName)
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, "", fmt.Errorf("lock run directory: %w", err)
	}
	err = flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		b, _ := os.ReadFile(path)
		f.Close()
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return nil, "", &Locked{Dir: dir, PID: pid}
	case noLocks(err):
		note = fmt.Sprintf("the file system of %s has no locks; make sure that only one process trains there", dir)
	case err != nil:
		f.Close()
		return nil, "", fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil && note == "" {
		f.Close()
		return nil, "", fmt.Errorf("lock %s: %w", path, err)
	}
	return f, note, nil
}

// lockFolder holds an exclusive lock on a folder itself while a short change of
// several files in it is made; where folders cannot be locked it does nothing.
func lockFolder(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX); err != nil && !noLocks(err) {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); err != syscall.EINTR {
			return err
		}
	}
}

func noLocks(err error) bool {
	return errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) ||
		errors.Is(err, syscall.ENOLCK) || errors.Is(err, syscall.EBADF)
}
