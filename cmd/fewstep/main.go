// Command fewstep distils a diffusion model into one that needs 1 to 8 steps, by progressive adversarial
// diffusion distillation. Its subcommands stand in one file each; `fewstep --help` lists them.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

func main() {
	// A panic would end the process with code 2, which says that the command line is wrong.
	debug.SetTraceback("crash")
	os.Exit(mainCode(os.Args[1:], os.Stdout, os.Stderr))
}

// mainCode runs one command line and returns the exit code. The first of stopSignals ends the context,
// so that commands save and stop; the second ends the process at once. SIGUSR1, which launchers send some time before
// they end a job, ends the context too, and does not count.
func mainCode(args []string, stdout, stderr io.Writer) int {
	keepBrokenPipes()
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	defer stop()
	context.AfterFunc(ctx, stop)
	ctx, stopEarly := signal.NotifyContext(ctx, syscall.SIGUSR1)
	defer stopEarly()

	out := &output{w: stdout}
	told := newConsole(stderr)
	defer told.flush(consoleLast)
	a := &app{stdout: out, stderr: told, terminal: isTerminal(stderr)}
	err := hintAtMemory(a.execute(ctx, args))
	if failed := out.failed(); failed != nil && (err == nil || errors.Is(err, syscall.EPIPE)) {
		if err = failed; readerGone(err) {
			return exitFailure // who ended it knows
		}
	}
	if err != nil {
		printError(told, err)
	}
	return exitCode(err)
}
