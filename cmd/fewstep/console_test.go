package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// The console takes what nobody can read; output keeps what it could not write.
func TestConsoleNeverFails(t *testing.T) {
	broken := writerFunc(func(p []byte) (int, error) { return 1, io.ErrClosedPipe })
	c := newConsole(broken)
	if n, err := fmt.Fprint(c, "abc"); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	c.flush(time.Minute)
	o := &output{w: broken}
	fmt.Fprint(o, "abc")
	if !errors.Is(o.failed(), io.ErrClosedPipe) {
		t.Errorf("%v", o.failed())
	}
	short := &output{w: writerFunc(func(p []byte) (int, error) { return 1, nil })}
	fmt.Fprint(short, "abc")
	if !errors.Is(short.failed(), io.ErrShortWrite) {
		t.Errorf("%v", short.failed())
	}
}

// A reader that takes nothing for a while holds nobody up; what it is given then tells what is missing.
func TestConsoleNeverWaits(t *testing.T) {
	var got bytes.Buffer
	begun, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c := newConsole(writerFunc(func(p []byte) (int, error) {
		once.Do(func() { close(begun) })
		<-free
		return got.Write(p)
	}))
	fmt.Fprintln(c, "first")
	<-begun
	line := strings.Repeat("x", 1<<10) + "\n"
	for range 3000 {
		if n, err := io.WriteString(c, line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	c.flush(10 * time.Millisecond)
	close(free)
	c.flush(time.Minute)
	fmt.Fprintln(c, "last")
	c.flush(time.Minute)
	taken := strings.Count(got.String(), line)
	if taken < 1000 || taken > 1<<10 || !strings.HasPrefix(got.String(), "first\n") ||
		!strings.HasSuffix(got.String(), fmt.Sprintf("%d messages are left out here, because nobody read what came before them\nlast\n", 3000-taken)) {
		t.Errorf("%d lines, then %q", taken, got.String()[max(0, got.Len()-200):])
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
