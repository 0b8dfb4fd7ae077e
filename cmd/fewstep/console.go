package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// console is stderr: what a person or a log reads while work goes on. It takes everything at once and never fails, because
// work is worth more than being told of it: a reader may end, as tee does on Ctrl-C, a disk under a log may be full, and a
// terminal on Ctrl-S or a pager reads nothing for hours. What such a reader has not taken waits, up to consoleHeld bytes;
// what is more is left out, and that is said where it is missing.
type console struct {
	w io.Writer

	mu      sync.Mutex
	waiting [][]byte
	size    int           // bytes of waiting
	lost    int           // writes that were left out after those waiting
	writing bool          // a goroutine writes what waits
	idle    chan struct{} // closed when it has written all
}

const (
	consoleHeld = 1 << 20
	consoleLast = 2 * time.Second // given to the reader at the end of the process
)

func newConsole(w io.Writer) *console { return &console{w: w} }

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+len(p) > consoleHeld {
		c.lost++
		return len(p), nil
	}
	c.waiting, c.size = append(c.waiting, bytes.Clone(p)), c.size+len(p)
	if !c.writing {
		c.writing, c.idle = true, make(chan struct{})
		go c.drain()
	}
	return len(p), nil
}

// drain writes what waits until nothing does.
func (c *console) drain() {
	for {
		c.mu.Lock()
		list, lost := c.waiting, c.lost
		c.waiting, c.lost = nil, 0
		if len(list) == 0 && lost == 0 {
			c.writing = false
			close(c.idle)
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		for _, p := range list {
			_, _ = c.w.Write(p)
			c.mu.Lock()
			c.size -= len(p)
			c.mu.Unlock()
		}
		if lost > 0 {
			_, _ = fmt.Fprintf(c.w, "fewstep: %d messages are left out here, because nobody read what came before them\n", lost)
		}
	}
}

// flush waits until everything is written, so long as a reader may take.
func (c *console) flush(most time.Duration) {
	c.mu.Lock()
	writing, idle := c.writing, c.idle
	c.mu.Unlock()
	if !writing {
		return
	}
	select {
	case <-idle:
	case <-time.After(most):
	}
}

// Fd is the file descriptor under the console, by which bars know a terminal's width.
func (c *console) Fd() uintptr {
	if f, ok := c.w.(interface{ Fd() uintptr }); ok {
		return f.Fd()
	}
	return ^uintptr(0)
}

// output is stdout: data. What it cannot take ends the command with an error, whoever wrote.
type output struct {
	w  io.Writer
	mu sync.Mutex
	// err is the first failure.
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.err == nil {
			o.err = fmt.Errorf("cannot write to stdout: %w", err)
		}
	}
	return n, err
}

// failed is what could not be written, nil for all was.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// readerGone says whether an error is only that nobody reads any more, as after 'fewstep inspect | head -1'.
func readerGone(err error) bool { return errors.Is(err, syscall.EPIPE) }

// stopSignals are those that ask a process to end. A hang-up is one, when the terminal or the connection goes, unless the
// process was begun with nohup.
func stopSignals() []os.Signal {
	out := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		out = append(out, syscall.SIGHUP)
	}
	return out
}

// keepBrokenPipes makes writing to a pipe that nobody reads an error: without, it ends the process where stdout or stderr is
// such a pipe.
func keepBrokenPipes() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}
