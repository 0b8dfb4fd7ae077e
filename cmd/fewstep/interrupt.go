package main

import (
	"context"
	"time"
)

// grace is how long interrupted work may take to end cleanly where ending it at once would lose nothing.
const grace = 500 * time.Millisecond

// interruptible does work and returns its error. Once the context has ended, interruptible waits for the work only while
// unsaved says that something would be lost (nil = never), and else returns the context's error: compiling takes minutes and
// nothing stops it, and reading a large model takes long as well. The work then still goes on, so the process must end soon,
// and the work itself must close what it has opened.
func interruptible(ctx context.Context, unsaved func() bool, work func() error) error {
	done := make(chan error, 1)
	go func() { done <- work() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	for pause := grace; ; pause = 20 * time.Millisecond {
		select {
		case err := <-done:
			return err
		case <-time.After(pause):
			if unsaved == nil || !unsaved() {
				return ctx.Err()
			}
		}
	}
}
