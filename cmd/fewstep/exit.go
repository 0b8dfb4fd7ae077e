package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"fewstep/internal/xla"
)

// Exit codes. They are part of the command line's contract; `fewstep --help` lists them.
const (
	exitOK          = 0 // done
	exitFailure     = 1 // any error without a code of its own
	exitUsage       = 2 // wrong command line or wrong configuration: nothing was started
	exitInterrupted = 3 // Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP: what was trained is saved; the same command continues
	exitRefused     = 4 // the run directory was made by another configuration, nodes of a cluster differ, or the plan does not fit the device
	exitNonFinite   = 5 // a loss, gradient or weight was not finite: nothing of it was saved
	exitLost        = 6 // a rank of a cluster is dead, stalled or did not come: all ranks end; starting all again continues
)

const exitCodesHelp = `Exit codes:
  0  done
  1  any error without a code of its own
  2  wrong command line or configuration; nothing was started
  3  interrupted by Ctrl-C, SIGTERM, SIGUSR1 or a hang-up and saved; the same command continues
  4  refused: the run directory was made by another configuration, the nodes of a cluster differ, or the plan takes more
     than --memory
  5  a loss, gradient or weight was not finite; nothing of it was saved
  6  a node of a cluster is lost, stands still or did not come; starting all again continues
A signal that ends the process gives 128 and its number: 137 killed, 134 crashed.`

// All text that a person reads about a failure is made here:
//
//	fewstep: message
//	fewstep: hint: what to do instead
//
// It goes to stderr, starts in lower case and has no full stop. Data alone goes to stdout.

// exitError is an error with the exit code of the process and, where there is one, a hint.
type exitError struct {
	code int
	err  error
	hint string
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// withCode gives an error its exit code. nil stays nil; a hint that the error has already is kept.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	var inner *exitError
	if errors.As(err, &inner) {
		return &exitError{code, err, inner.hint}
	}
	return &exitError{code, err, ""}
}

// withHint adds what the user can do, as a clause without a full stop. nil stays nil.
func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &exitError{exitCode(err), err, fmt.Sprintf(format, args...)}
}

// hintAtMemory says what helps where a device's memory was not enough and nothing better is known.
func hintAtMemory(err error) error {
	var e *exitError
	if !xla.OutOfMemory(err) || errors.As(err, &e) && e.hint != "" {
		return err
	}
	return withHint(err, "the device's memory is not enough, or other programs use it: 'fewstep plan --memory' names what makes a recipe smaller; "+
		"drawing takes less with a smaller --batch, with --compute bf16 and --tile 512")
}

// usageErrorf is a mistake on the command line or in a configuration.
func usageErrorf(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...), ""}
}

// exitCode is the exit code that an error leads to.
func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return exitFailure
}

// printError writes an error for a person.
func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "fewstep: %s\n", strings.TrimRight(err.Error(), ".\n"))
	var e *exitError
	if errors.As(err, &e) && e.hint != "" {
		fmt.Fprintf(w, "fewstep: hint: %s\n", e.hint)
	}
}
