package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A power cut is simulated from the system calls of a whole run, of which strace tells every byte. The disk below knows
// of every file and folder what the programs see and what is durable: contents become so by fsync of the file, names by fsync
// of their folder. What is on the disk after a cut depends on the mode:
//
//	strict          what is durable, and nothing else
//	metadata-ahead  every name as it was, contents as far as they are durable
//	zero-filled     every name and every size as it was, zeros where contents are not durable
//	mixed           each name and each content, by chance, as it was or as it is durable or with zeros
var cutModes = []string{"strict", "metadata-ahead", "zero-filled", "mixed"}

// node is a file or a folder.
type node struct {
	names, durableNames map[string]*node // of a folder; nil for a file
	data, durable       []byte
}

func folder() *node { return &node{names: map[string]*node{}, durableNames: map[string]*node{}} }

// disk replays system calls below a folder, which is there from the start.
type disk struct {
	root string
	top  *node
	fds  map[int]*node
}

func newDisk(root string) *disk { return &disk{root, folder(), map[int]*node{}} }

// find gives the folder that holds a path and the path's last part; false outside of the root. at is the folder that a
// relative path begins in.
func (d *disk) find(at *node, path string) (*node, string, bool) {
	if at != nil && !filepath.IsAbs(path) && !strings.Contains(path, "/") {
		return at, path, true
	}
	rel, err := filepath.Rel(d.root, path)
	if err != nil || rel == "." || strings.HasPrefix(rel, "..") {
		return nil, "", false
	}
	parts := strings.Split(rel, "/")
	at = d.top
	for _, p := range parts[:len(parts)-1] {
		if at = at.names[p]; at == nil || at.names == nil {
			return nil, "", false
		}
	}
	return at, parts[len(parts)-1], true
}

var (
	callLine = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)
	quoted   = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
)

// traceCalls are those that change what a disk holds.
const traceCalls = "openat,close,write,pwrite64,ftruncate,fsync,renameat,renameat2,mkdirat,unlinkat"

// parseTrace gives the finished calls of a strace log in their order, each as name, arguments and result.
func parseTrace(raw string) (calls [][3]string, err error) {
	begun := map[string]string{}
	for line := range strings.Lines(raw) {
		line = strings.TrimSpace(line)
		pid, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		if before, ok := strings.CutSuffix(rest, "<unfinished ...>"); ok {
			begun[pid] = before
			continue
		}
		if strings.HasPrefix(rest, "<... ") {
			_, after, _ := strings.Cut(rest, "resumed>")
			line = pid + " " + begun[pid] + after
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			if strings.Contains(line, "+++") || strings.Contains(line, "---") || strings.Contains(line, " = ?") {
				continue
			}
			return nil, fmt.Errorf("cannot read a line of strace: %.200s", line)
		}
		calls = append(calls, [3]string{m[2], m[3], m[4]})
	}
	return calls, nil
}

func unhex(s string) string {
	var b strings.Builder
	for i := 0; i+4 <= len(s); i += 4 {
		c, _ := strconv.ParseUint(s[i+2:i+4], 16, 8)
		b.WriteByte(byte(c))
	}
	return b.String()
}

// apply does what a call did.
func (d *disk) apply(call [3]string) error {
	name, args := call[0], call[1]
	result, _ := strconv.ParseInt(call[2], 10, 64)
	if result < 0 {
		return nil
	}
	var texts []string
	for _, m := range quoted.FindAllStringSubmatch(args, -1) {
		texts = append(texts, unhex(m[1]))
	}
	fd := -1
	if number, _, ok := strings.Cut(args, ","); ok || name == "close" || name == "fsync" {
		fd, _ = strconv.Atoi(strings.TrimSpace(number))
	}
	last := func() int64 {
		n, _ := strconv.ParseInt(strings.TrimSpace(args[strings.LastIndex(args, ",")+1:]), 10, 64)
		return n
	}
	switch name {
	case "openat":
		delete(d.fds, int(result))
		if texts[0] == d.root {
			d.fds[int(result)] = d.top
			return nil
		}
		parent, base, ok := d.find(d.fds[fd], texts[0])
		if !ok {
			return nil
		}
		n := parent.names[base]
		if n == nil {
			n = &node{}
			parent.names[base] = n
		}
		if strings.Contains(args, "O_TRUNC") {
			n.data = nil
		}
		d.fds[int(result)] = n
	case "close":
		delete(d.fds, fd)
	case "write": // every file is written from its end on
		if n := d.fds[fd]; n != nil {
			n.data = append(slices.Clip(n.data), texts[0][:result]...)
		}
	case "pwrite64":
		if n := d.fds[fd]; n != nil {
			at := last()
			data := append([]byte(nil), n.data...)
			if grow := at + result - int64(len(data)); grow > 0 {
				data = append(data, make([]byte, grow)...)
			}
			copy(data[at:], texts[0][:result])
			n.data = data
		}
	case "ftruncate":
		if n := d.fds[fd]; n != nil {
			to := last()
			data := make([]byte, to)
			copy(data, n.data)
			n.data = data
		}
	case "fsync":
		if n := d.fds[fd]; n != nil {
			n.durable = n.data
			if n.names != nil {
				n.durableNames = map[string]*node{}
				for k, v := range n.names {
					n.durableNames[k] = v
				}
			}
		}
	case "mkdirat":
		if parent, base, ok := d.find(d.fds[fd], texts[0]); ok {
			parent.names[base] = folder()
		}
	case "unlinkat":
		if parent, base, ok := d.find(d.fds[fd], texts[0]); ok {
			delete(parent.names, base)
		}
	case "renameat", "renameat2":
		from, base, ok := d.find(d.fds[fd], texts[0])
		to, name, ok2 := d.find(nil, texts[1])
		if !ok || !ok2 || from.names[base] == nil {
			return fmt.Errorf("a rename out of the folder: %s", args)
		}
		to.names[name] = from.names[base]
		delete(from.names, base)
	}
	return nil
}

// cut writes what is on the disk after a power cut.
func (d *disk) cut(to, mode string, random *rand.Rand) error { return cutNode(d.top, to, mode, random) }

func cutNode(n *node, to, mode string, random *rand.Rand) error {
	ahead := func() bool {
		switch mode {
		case "strict":
			return false
		case "mixed":
			return random.IntN(2) == 0
		}
		return true
	}
	if n.names == nil {
		data := n.durable
		if mode == "zero-filled" || mode == "mixed" && ahead() {
			data = make([]byte, len(n.data))
			copy(data, n.durable)
		}
		if mode == "all" || mode == "mixed" && ahead() {
			data = n.data
		}
		return os.WriteFile(to, data, 0o666)
	}
	if err := os.MkdirAll(to, 0o777); err != nil {
		return err
	}
	all := map[string]bool{}
	for name := range n.names {
		all[name] = true
	}
	for name := range n.durableNames {
		all[name] = true
	}
	var sorted []string
	for name := range all {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		child := n.durableNames[name]
		if ahead() {
			child = n.names[name]
		}
		if child == nil {
			continue
		}
		if err := cutNode(child, filepath.Join(to, name), mode, random); err != nil {
			return err
		}
	}
	return nil
}
