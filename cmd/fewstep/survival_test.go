package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSurvival(t *testing.T) {
	s := newSurvivor(t)

	// The repair that check names: delete a result, and the same command makes it again. What was made from it stays, to
	// the byte, however often the process is killed meanwhile.
	t.Run("deleted results", func(t *testing.T) {
		for _, gone := range [][]string{{"16/mse-lora"}, {"16/mse-full"}, {"8/lora-cond"}, {"8/full-uncond"}, {"16/mse-lora", "8/lora-cond"}} {
			dir := s.copied(t)
			for _, phase := range gone {
				if err := os.RemoveAll(filepath.Join(dir, "stages", filepath.FromSlash(phase), "result")); err != nil {
					t.Fatal(err)
				}
			}
			if gone[0] != "8/full-uncond" { // of the last phase it is only not done yet
				if out, _, code := runCommand(t, "check", dir); code != exitFailure || !strings.Contains(out, "stages/"+gone[0]+"/result: is missing") {
					t.Errorf("check of %v: code %d, %s", gone, code, out)
				}
			}
			for _, pause := range []time.Duration{300, 900} {
				cmd, _ := fewstep(t, s.args(dir)...)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(pause * time.Millisecond)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
			s.run(t, dir, exitOK)
			s.same(t, dir)
			if _, err := os.Stat(filepath.Join(dir, "aside")); err == nil {
				t.Errorf("%v: something is still aside", gone)
			}
		}
	})

	// Whatever is not as it was saved is made again: by its digest, not by its being there.
	t.Run("damaged artifacts", func(t *testing.T) {
		dir := s.copied(t)
		for _, name := range []string{"encoded/" + latents, "encoded/captions.f32", "exports/8step_unet.safetensors", "exports/16step_unet_comfyui.json",
			"sheets/full-8step.png", "report/index.html", "report/table.json"} {
			flip(t, filepath.Join(dir, filepath.FromSlash(name)))
		}
		rows, _ := filepath.Glob(filepath.Join(dir, "report", "rows", "*"))
		for _, row := range rows {
			flip(t, row)
		}
		if len(rows) == 0 {
			t.Error("the report has no rows")
		}
		for _, name := range []string{"exports/8step_lora.safetensors", "exports/16step_scheduler_config.json"} {
			if err := os.Truncate(filepath.Join(dir, name), 0); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"exports/8step_scheduler_config.json", "report/metrics.csv", "report/metrics.json", "sheets/full-16step.png"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		// Encodings are read only where something is trained.
		if err := os.RemoveAll(filepath.Join(dir, "stages", "8", "full-uncond", "result")); err != nil {
			t.Fatal(err)
		}
		out := s.run(t, dir, exitOK)
		if !strings.Contains(out, latents+" has SHA-256") || !strings.Contains(out, "it is made again") {
			t.Errorf("nothing was told:\n%s", out)
		}
		s.same(t, dir)
	})
	t.Run("damaged manifests", func(t *testing.T) {
		dir := s.copied(t)
		for _, folder := range []string{"exports", "sheets", "report"} {
			flip(t, filepath.Join(dir, folder, "manifest.json"))
		}
		flip(t, filepath.Join(dir, "source.json"))
		s.run(t, dir, exitOK)
		s.same(t, dir)
	})

	// All checkpoints of a phase damaged: nothing is changed, and the command that is named goes on.
	t.Run("damaged checkpoints", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		cmd, _ := s.started(t, dir, 9, nil) // two updates of 8/lora-cond, each with a checkpoint after it
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		found, _ := filepath.Glob(filepath.Join(dir, "stages", "8", "lora-cond", "checkpoints", "*", "student.safetensors"))
		if len(found) == 0 {
			t.Fatal("there is no checkpoint")
		}
		for _, name := range found {
			flip(t, name)
		}
		skip := func(path string) bool { // what the killed writer left half written goes at any start
			return wallClock(path) || strings.Contains(path, ".fewstep-tmp-")
		}
		before := files(t, dir, skip)
		if out := s.run(t, dir, exitFailure); !strings.Contains(out, "every checkpoint of stage 8, phase lora-cond is damaged") || !strings.Contains(out, "rewind "+dir+" --to 8/lora-cond") {
			t.Errorf("%s", out)
		}
		sameFiles(t, before, files(t, dir, skip))
		if out, errs, code := runCommand(t, "rewind", dir, "--to", "8/lora-cond"); code != exitOK || !strings.Contains(out, "stands at 8/lora-cond") {
			t.Fatalf("code %d, %s%s", code, out, errs)
		}
		s.run(t, dir, exitOK)
		s.same(t, dir)
	})

	// From the end back to a phase in the middle, and up again: the same bytes.
	t.Run("rewind", func(t *testing.T) {
		dir := s.copied(t)
		out, errs, code := runCommand(t, "rewind", dir)
		if code != exitOK || strings.Count(out, "the phase's start") < 5 || !strings.Contains(out, "a checkpoint") {
			t.Fatalf("code %d, %s%s", code, out, errs)
		}
		if _, errs, code := runCommand(t, "rewind", dir, "--to", "8/nothing"); code != exitUsage {
			t.Errorf("code %d, %s", code, errs)
		}
		if _, errs, code := runCommand(t, "rewind", dir, "--to", "16/mse-full"); code != exitOK {
			t.Fatalf("code %d, %s", code, errs)
		}
		if out, errs, code := runCommand(t, "check", dir); code != exitOK {
			t.Errorf("check: %s%s", out, errs)
		}
		if out, errs, code := runCommand(t, "rewind", dir); code != exitOK || strings.Contains(out, "8/lora-cond") {
			t.Errorf("code %d, %s%s", code, out, errs)
		}
		s.run(t, dir, exitOK)
		s.same(t, dir)
	})

	t.Run("terminal", func(t *testing.T) {
		// A hang-up saves; under nohup, under which these tests may run too, it is none.
		dir := filepath.Join(t.TempDir(), "run")
		if !signal.Ignored(syscall.SIGHUP) {
			cmd, out := s.started(t, dir, 2, nil)
			_ = cmd.Process.Signal(syscall.SIGHUP)
			ended(t, cmd, out, exitInterrupted)
			if !strings.Contains(out.String(), "the state is saved") {
				t.Errorf("%s", out)
			}
		}
		// Its reader ends, as tee does on Ctrl-C, before the signal comes.
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, r)
		cmd, _ := s.started(t, dir, 4, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = w, w })
		r.Close()
		w.Close()
		time.Sleep(50 * time.Millisecond)
		_ = cmd.Process.Signal(os.Interrupt)
		ended(t, cmd, &bytes.Buffer{}, exitInterrupted)
		if found, _ := filepath.Glob(filepath.Join(dir, "stages", "*", "*", "checkpoints", "*", "manifest.json")); len(found) == 0 {
			t.Error("no checkpoint was saved")
		}
		// Nobody reads, or the disk under the log is full: training goes on to its end.
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		defer full.Close()
		cmd, _ = fewstep(t, s.args(dir)...)
		cmd.Stderr = full
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended(t, cmd, &bytes.Buffer{}, exitOK)
		s.same(t, dir)
		// Data that cannot be written is an error.
		cmd, _ = fewstep(t, s.args(dir, "--quiet")...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended(t, cmd, &errs, exitFailure)
		if !strings.Contains(errs.String(), "cannot write to stdout: ") || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("%s", &errs)
		}
	})
	t.Run("nohup", func(t *testing.T) {
		sh, err := exec.LookPath("nohup")
		if err != nil {
			t.Skip(err)
		}
		dir := filepath.Join(t.TempDir(), "run")
		cmd, out := s.started(t, dir, 2, func(cmd *exec.Cmd) {
			cmd.Args, cmd.Path = append([]string{"nohup", fewstepLink(t)}, cmd.Args[1:]...), sh
		})
		_ = cmd.Process.Signal(syscall.SIGHUP)
		ended(t, cmd, out, exitOK)
		s.same(t, dir)
	})

	// A crash is not a wrong command line.
	t.Run("crash", func(t *testing.T) {
		cmd, _ := s.started(t, filepath.Join(t.TempDir(), "run"), 2, nil)
		_ = cmd.Process.Signal(syscall.SIGQUIT) // Go's runtime ends as it does after a panic
		_ = cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGABRT {
			t.Errorf("ended with %v", cmd.ProcessState)
		}
	})

	// Every file that is read is in the lineage; the machine is told of.
	t.Run("inputs", func(t *testing.T) {
		model := filepath.Join(filepath.Dir(s.recipe), "tinymodel")
		for _, name := range []string{"scheduler/scheduler_config.json", "unet/config.json", "vae/config.json", "tokenizer/merges.txt", "text_encoder_2/config.json", "clip/config.json", "model_index.json"} {
			path := filepath.Join(model, filepath.FromSlash(name))
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(bytes.Clone(raw), '\n'), 0o666); err != nil {
				t.Fatal(err)
			}
			if out := s.run(t, s.straight, exitRefused); !strings.Contains(out, "inputs."+name) {
				t.Errorf("%s: %s", name, out)
			}
			if err := os.WriteFile(path, raw, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		dir := s.copied(t)
		cmd, out := fewstep(t, s.args(dir)...)
		cmd.Env = append(cmd.Env, "GOMAXPROCS=7")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended(t, cmd, out, exitOK)
		if !strings.Contains(out.String(), "another CPU threads") || !strings.Contains(out.String(), "→ 7") {
			t.Errorf("%s", out)
		}
		var l struct{ Changes []struct{ Key, New string } }
		raw, err := os.ReadFile(filepath.Join(dir, "lineage.json"))
		if err := errors.Join(err, json.Unmarshal(raw, &l)); err != nil || len(l.Changes) != 1 || l.Changes[0].New != "7" {
			t.Errorf("%+v, %v", l, err)
		}
	})

	// An update whose weights are not finite is never saved, by a checkpoint or as a result, and the same directory goes on
	// with a lower rate.
	t.Run("not finite", func(t *testing.T) {
		for phase, samples := range map[string]string{"16.phases.mse-full": "4", "8.phases.full-uncond": "2"} { // at a checkpoint, and in the last update
			dir := filepath.Join(t.TempDir(), "run")
			set := []string{"--set", "stages." + phase + ".lr=1e39", "--set", "stages." + phase + ".samples=" + samples, "--set", "stages." + phase + ".discriminator_lr=1e-3"}
			out := s.run(t, dir, exitNonFinite, set...)
			if !strings.Contains(out, "of student.safetensors is") || !strings.Contains(out, "--set stages."+phase+".lr=") {
				t.Errorf("%s", out)
			}
			if out, errs, code := runCommand(t, "check", dir); code != exitOK {
				t.Errorf("check: %s%s", out, errs)
			}
			if out := s.run(t, dir, exitRefused, "--set", "stages."+phase+".lr=1e-3", "--set", "stages.16.phases.mse-lora.lr=2e-3"); !strings.Contains(out, "stages.16.phases.mse-lora.lr: 0.001 → 0.002") {
				t.Errorf("a finished phase: %s", out)
			}
			if out := s.run(t, dir, exitOK); !strings.Contains(out, "setting changed from position") {
				t.Errorf("%s", out)
			}
			got := files(t, dir, wallClock)
			for _, name := range slices.Sorted(maps.Keys(s.want)) {
				if strings.Contains(name, "/result/student.") && got[name] != s.want[name] { // the rest tells of the lengths and the recipe that it was made by
					t.Errorf("%s differs", name)
				}
			}
		}
	})

	// A directory that is moved away is noticed by the next save; nothing is made in its old place, and it goes on elsewhere.
	t.Run("pulled away", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "run")
		cmd, out := s.started(t, dir, 2, nil)
		if err := os.Rename(dir, dir+"-moved"); err != nil {
			t.Fatal(err)
		}
		ended(t, cmd, out, exitFailure)
		if !strings.Contains(out.String(), "was renamed or removed while the run was going on") {
			t.Errorf("%s", out)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("the folder was made anew")
		}
		s.run(t, dir+"-moved", exitOK)
		s.same(t, dir+"-moved")
	})

	// A reader of stderr that reads nothing and stays, as a terminal on Ctrl-S, stalls nothing.
	t.Run("reader that stalls", func(t *testing.T) {
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		size, err := unix.FcntlInt(writer.Fd(), unix.F_SETPIPE_SZ, 4096)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "run")
		cmd, out := fewstep(t, s.args(dir)...)
		cmd.Stderr = writer
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		ended(t, cmd, out, exitOK)
		s.same(t, dir)
	})

	t.Run("read-only disk", func(t *testing.T) {
		disk := filepath.Join(t.TempDir(), "disk")
		if err := os.Mkdir(disk, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"); err != nil {
			t.Skipf("this process may not mount: %v", err)
		}
		defer syscall.Unmount(disk, 0)
		dir := filepath.Join(disk, "run")
		if err := os.CopyFS(dir, os.DirFS(s.straight)); err != nil {
			t.Fatal(err)
		}
		half := filepath.Join(disk, "half")
		s.run(t, half, exitOK, "--until", "16")
		if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		if out := s.run(t, dir, exitOK, "--quiet"); out != "done\n" {
			t.Errorf("%q", out)
		}
		if out := s.run(t, half, exitFailure); !strings.Contains(out, "read-only file system") {
			t.Errorf("%s", out)
		}
	})
}

// fewstepLink is this test binary under the name by which it is fewstep.
func fewstepLink(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "fewstep")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}
