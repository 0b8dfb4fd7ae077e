package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// console is stderr: what a person or a log reads while work goes on. It takes everything and never fails, because work is
// worth more than being told of it: a reader may end, as tee does on Ctrl-C, and a disk under a log may be full.
type console struct{ w io.Writer }

func (c console) Write(p []byte) (int, error) {
	_, _ = c.w.Write(p)
	return len(p), nil
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
