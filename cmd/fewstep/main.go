// Command fewstep distils a diffusion model into one that needs 1 to 8 steps, by progressive adversarial
// diffusion distillation. Its subcommands stand in one file each; `fewstep --help` lists them.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(mainCode(os.Args[1:], os.Stdout, os.Stderr)) }

// mainCode runs one command line and returns the exit code. The first SIGINT or SIGTERM ends the context,
// so that commands save and stop; the second ends the process at once.
func mainCode(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	a := &app{stdout: stdout, stderr: stderr}
	err := hintAtMemory(a.execute(ctx, args))
	if err != nil {
		printError(stderr, err)
	}
	return exitCode(err)
}
