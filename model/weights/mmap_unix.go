//go:build unix

package weights

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int64) ([]byte, error) {
	return syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
}

func unmapFile(mapping []byte) error {
	if mapping == nil {
		return nil
	}
	return syscall.Munmap(mapping)
}

// advise tells the kernel about the pages that hold part, a part of mapping. It is a hint: failure changes nothing.
func advise(mapping, part []byte, advice int) {
	if len(part) == 0 || len(mapping) == 0 {
		return
	}
	page := uintptr(os.Getpagesize())
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(part))) - uintptr(unsafe.Pointer(unsafe.SliceData(mapping)))
	end := min((begin+uintptr(len(part))+page-1)/page*page, uintptr(len(mapping)))
	if begin = begin / page * page; begin < end {
		_ = unix.Madvise(mapping[begin:end], advice)
	}
}

func willNeed(mapping, part []byte) { advise(mapping, part, unix.MADV_WILLNEED) }

// release takes the pages out of this process's memory. They stay in the system's cache and come back when touched.
func release(mapping, part []byte) { advise(mapping, part, unix.MADV_DONTNEED) }
