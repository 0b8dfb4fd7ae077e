package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"

	"fewstep/configs"
	"fewstep/internal/xla"
)

// app is what every subcommand works with.
type app struct {
	stdout   io.Writer    // data
	stderr   io.Writer    // everything else
	terminal bool         // stderr is one
	log      *slog.Logger // progress and warnings for a person, to stderr; set before a command runs
	json     bool         // --json: data as JSON
	quiet    bool         // --quiet: errors only on stderr
	backend  string       // --backend: one of xla.Choices()
	memory   float64      // --memory-fraction: of a GPU's memory
	profile  string       // --cpu-profile: file for a profile of the host
	ended    func() error // ends that profile

	working func(doing string) // tells the other ranks of a cluster that this one works; nil = there are none

	settings *configs.Settings // of the user, with these flags

	started bool // a command's own code was reached: errors are no longer about the command line
}

// commands are the constructors of all subcommands, in the order of their files' names.
var commands []func(*app) *cobra.Command

// register adds a subcommand; each command's file calls it from init.
func register(command func(*app) *cobra.Command) { commands = append(commands, command) }

func (a *app) execute(ctx context.Context, args []string) error {
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if a.ended != nil {
		if closed := a.ended(); err == nil {
			err = closed
		}
	}
	if err == nil || a.started || exitCode(err) == exitUsage {
		return err
	}
	// What is left is cobra's own judgement of the arguments.
	if i := slices.IndexFunc(args, func(arg string) bool { return !strings.HasPrefix(arg, "-") }); cmd == root && i >= 0 {
		if near := root.SuggestionsFor(args[i]); len(near) > 0 {
			return withHint(withCode(exitUsage, err), "did you mean '%s'?", strings.Join(near, "' or '"))
		}
	}
	return withHint(withCode(exitUsage, err), "run '%s --help'", cmd.CommandPath())
}

func (a *app) root() *cobra.Command {
	cobra.EnableTraverseRunHooks = true // a subcommand's own PersistentPreRun must not replace the root's
	root := &cobra.Command{
		Use:   "fewstep",
		Short: "Distil a diffusion model into one that needs 1 to 8 steps.",
		Long: "fewstep distils a diffusion model into one that needs 1 to 8 steps, by progressive adversarial diffusion distillation.\n\n" +
			"Data goes to stdout, everything else to stderr.\n\n" + exitCodesHelp,
		Example: "  fewstep doctor\n  fewstep run configs/mini/demo.yaml --dir runs/demo",

		SilenceErrors:              true,
		DisableSuggestions:         true, // made into a hint by execute
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := configs.Read(cmd.Root().PersistentFlags())
			if err != nil {
				return withHint(withCode(exitUsage, err), "'fewstep plan --help' tells of settings")
			}
			a.settings, a.backend, a.memory = settings, settings.Backend, settings.MemoryFraction
			if !slices.Contains(xla.Choices(), a.backend) {
				return withHint(usageErrorf("unknown backend %q", a.backend), "choose one of %s", strings.Join(xla.Choices(), ", "))
			}
			if !(a.memory > 0 && a.memory <= 1) {
				return usageErrorf("--memory-fraction is %g; it must be above 0 and at most 1", a.memory)
			}
			a.log = a.newLogger()
			for _, text := range configs.Misspelt(os.Environ()) {
				a.log.Warn(text)
			}
			a.started = true
			return a.profileHost()
		},
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "write data as JSON")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "write nothing but errors to stderr")
	flags.StringVar(&a.backend, "backend", xla.Auto, "where to compute: "+strings.Join(xla.Choices(), "|"))
	flags.Float64Var(&a.memory, "memory-fraction", 0.92, "the share of a GPU's memory that may be used")
	flags.StringVar(&a.profile, "cpu-profile", "", "write where the host's time goes to this file, for 'go tool pprof'")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return withHint(withCode(exitUsage, err), "run '%s --help'", cmd.CommandPath())
	})
	for _, command := range commands {
		root.AddCommand(command(a))
	}
	completeGroups(root)
	return root
}

// completeGroups makes a command that only holds others answer an unknown subcommand with an error;
// cobra would print its help and call that a success.
func completeGroups(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		if cmd.HasSubCommands() && !cmd.Runnable() {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return cmd.Help()
				}
				return withHint(usageErrorf("unknown command %q for %q", args[0], cmd.CommandPath()), "run '%s --help'", cmd.CommandPath())
			}
		}
		completeGroups(cmd)
	}
}

// profileHost begins the profile that --cpu-profile asks for.
func (a *app) profileHost() error {
	if a.profile == "" {
		return nil
	}
	f, err := os.Create(a.profile)
	if err != nil {
		return fmt.Errorf("--cpu-profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(fmt.Errorf("--cpu-profile: %w", err), f.Close())
	}
	a.ended = func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}
	return nil
}

func (a *app) newLogger() *slog.Logger {
	level := slog.LevelInfo
	if a.quiet {
		level = slog.LevelError
	}
	return slog.New(tint.NewHandler(a.stderr, &tint.Options{
		Level:      level,
		TimeFormat: time.TimeOnly,
		NoColor:    os.Getenv("NO_COLOR") != "" || !a.terminal,
	}))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// openBackend opens what --backend asks for and logs why that was taken: warnings as such, the rest as
// information. The caller closes the runtime.
func (a *app) openBackend(opt xla.Options) (*xla.Runtime, error) {
	opt.MemoryFraction = a.memory // the plugin's own three quarters would leave 12 GB of a card of 16
	rt, err := xla.Open(a.backend, opt)
	if err != nil {
		return nil, withHint(err, "'fewstep doctor' shows what was found and how to get the rest")
	}
	for _, note := range rt.Notes {
		if text, ok := strings.CutPrefix(note, "warning: "); ok {
			a.log.Warn(text)
		} else {
			a.log.Info(note)
		}
	}
	a.log.Info("backend", "kind", rt.Kind, "devices", rt.NumDevices(), "version", rt.Version)
	return rt, nil
}

// writeJSON writes one value to stdout, indented.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
