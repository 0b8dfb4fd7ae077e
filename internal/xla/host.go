package xla

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// HostMemory is the machine's memory in bytes: all of it, and what is free for use now.
// Both are cut down to the control group's limit where the process runs under one (containers, Slurm).
// It reads /proc/meminfo and is an error where that does not exist.
func HostMemory() (total, available int64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("xla: memory figures: %w", err)
	}
	total, available = meminfo(string(text), "MemTotal"), meminfo(string(text), "MemAvailable")
	if total == 0 {
		return 0, 0, fmt.Errorf("xla: memory figures: /proc/meminfo has no MemTotal")
	}
	if limit, used, ok := cgroupMemory(); ok && limit < total {
		total, available = limit, min(available, max(limit-used, 0))
	}
	return total, available, nil
}

// meminfo reads one line of /proc/meminfo ("MemTotal:  24689836 kB"); 0 when it is not there.
func meminfo(text, key string) int64 {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok || name != key {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0
		}
		return kb << 10
	}
	return 0
}

func cgroupMemory() (limit, used int64, ok bool) {
	for _, files := range [][2]string{
		{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
	} {
		limit, err := readInt(files[0])
		if err != nil {
			continue // no such file, or "max"
		}
		used, _ := readInt(files[1])
		return limit, used, true
	}
	return 0, 0, false
}

func readInt(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// DiskFree is the number of bytes that this user may still write on the disk of a folder.
func DiskFree(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("xla: free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
