package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a scaling table divides.
func TestTable(t *testing.T) {
	lines := `{"step":"adv-full","devices":1,"batch":2,"accumulate":1,"samples_per_s":4,"median_ms":500,"min_ms":490,"arrays_gb":40,"peak_gb":41,"planned_gb":40.5,"setup_s":10,"first_s":50,"shard":"replicated","reduce":"Float32"}
{"step":"adv-full","devices":2,"batch":4,"accumulate":1,"samples_per_s":7.6,"median_ms":526,"min_ms":520,"arrays_gb":25,"planned_gb":24.5,"setup_s":12,"first_s":54,"shard":"sharded","reduce":"Float32"}
{"step":"adv-full","devices":1,"batch":4,"accumulate":1,"samples_per_s":5,"median_ms":800,"min_ms":790,"arrays_gb":44,"planned_gb":44.5,"setup_s":10,"first_s":50,"shard":"replicated","reduce":"Float32"}
`
	var out strings.Builder
	if err := Table(strings.NewReader(lines), &out); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(rows) != 5 {
		t.Fatalf("%d rows:\n%s", len(rows), out.String())
	}
	for row, want := range map[int]string{2: `\| 41\.0 : 40\.5 +\| 60\.0 +\|$`, 4: `sharded, Float32 +\| 526\.0 \(520\.0\) +\| 7\.6 +\| 95\.0 % +\| 76\.0 % +\| 25\.0 : 24\.5 +\| 66\.0 \(\+10 %\) +\|$`} {
		if !regexp.MustCompile(want).MatchString(rows[row]) {
			t.Errorf("row %q does not match %s", rows[row], want)
		}
	}
	for _, bad := range []string{"no JSON", `{"step":"adv-full"}`} {
		if err := Table(strings.NewReader(lines+bad+"\n"), &out); err == nil || !strings.Contains(err.Error(), "line 4") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// fake stands in for fewstep in the script: it answers a measurement with its own arguments, and the table with the lines.
// Of its trainings the first makes a checkpoint and goes on until it is killed, the second makes updates until it is told to end.
const fake = `#!/bin/sh
case "$*" in *--table*) cat "$3"; exit ;; esac
case "$1" in
run)
	echo "$*" >>"$4.runs"
	mkdir -p "$4"
	echo update >>"$4/stats.jsonl"
	trap 'exit 3' TERM
	case "$(wc -l <"$4.runs")$LOST" in
	1) mkdir -p "$4/stages/32/mse-lora/checkpoints/000000000016"; while :; do sleep 0.05; done ;;
	2) while :; do echo update >>"$4/stats.jsonl"; sleep 0.05; done ;;
	3*) exit 0 ;;
	esac
	exit 1 ;;
check) exit 0 ;;
esac
case "$*" in *sharded*) [ -n "${FAIL:-}" ] && { echo "no memory" >&2; exit 1; } ;; esac
echo "$*"
`

// The script asks for every row once, with the arguments that make it, goes on where it was stopped, and tells what failed
// or had no time. (With FEWSTEP_TEST_SCALING set it is run on virtual CPU devices too, which takes minutes.)
func TestScalingScript(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "fewstep")
	if err := os.WriteFile(program, []byte(fake), 0o777); err != nil {
		t.Fatal(err)
	}
	run := func(set ...string) (table, told string) {
		t.Helper()
		c := exec.Command("sh", "scaling.sh")
		var errs strings.Builder
		c.Stderr = &errs
		c.Env = append(os.Environ(), append([]string{"FEWSTEP=" + program, "FEWSTEP_PROGRAM_CACHE=" + filepath.Join(dir, "programs"), "OUT=" + filepath.Join(dir, "out"),
			"BACKEND=cpu", "STEPS=mse-lora", "PER=1", "ACCUMULATE=2", "ITERS=1", "ARGS=--preset mini --side 8 --rank 4 --granularity stage --calls stage"}, set...)...)
		raw, err := c.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, errs.String())
		}
		return string(raw), errs.String()
	}
	if _, told := run("BUDGET=0"); strings.Count(told, "no time for") != 8 {
		t.Errorf("without time it told\n%s", told)
	}
	table, told := run("FAIL=1", "DEVICES=1 2")
	if strings.Count(table, "--step mse-lora") != 6 || !strings.Contains(told, "mse-lora 2 2 1 sharded f32: status 1") || !strings.Contains(told, "no memory") {
		t.Errorf("a failed measurement:\n%s%s", table, told)
	}
	if !strings.Contains(told, "on 2 devices killed at a checkpoint (status 137), continued and stopped (status 3), ended on 1 (status 0), checked (status 0)") {
		t.Errorf("killed and continued:\n%s", told)
	}
	table, told = run()
	if strings.Count(told, "status 0") != 1 {
		t.Errorf("it did not go on with the one that failed:\n%s", told)
	}
	if _, told := run("LOST=1", "OUT="+filepath.Join(dir, "lost")); !strings.Contains(told, "killed at a checkpoint (status 1)") {
		t.Errorf("a training that fails:\n%s", told)
	} else if _, err := os.Stat(filepath.Join(dir, "lost", "survived")); err == nil {
		t.Error("a training that fails survived")
	}
	// One device with one sample and with two; two devices replicated, sharded and in bf16; two micro-batches on one and two.
	for _, want := range []string{"--devices 1 --batch 1 --accumulate 1 --shard replicated --reduce f32", "--devices 1 --batch 2 --accumulate 1 --shard replicated --reduce f32",
		"--devices 2 --batch 2 --accumulate 1 --shard replicated --reduce f32", "--devices 2 --batch 2 --accumulate 1 --shard sharded --reduce f32",
		"--devices 2 --batch 2 --accumulate 1 --shard replicated --reduce bf16", "--devices 1 --batch 1 --accumulate 2 --shard replicated --reduce f32",
		"--devices 2 --batch 2 --accumulate 2 --shard replicated --reduce f32"} {
		if strings.Count(table, "bench -q --backend cpu --preset mini --side 8 --rank 4 --granularity stage --calls stage --step mse-lora "+want+" --iters 1\n") != 1 {
			t.Errorf("not once: %s\n%s", want, table)
		}
	}
	if os.Getenv("FEWSTEP_TEST_SCALING") == "" {
		return
	}
	if raw, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "fewstep/cmd/fewstep").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	table, told = run("OUT="+filepath.Join(dir, "real"), "LIMIT=600", "BUDGET=3000", "XLA_FLAGS=--xla_backend_optimization_level=0")
	if strings.Count(table, "| mse-lora") != 7 || strings.Count(table, " %") < 4 {
		t.Errorf("on virtual devices:\n%s%s", table, told)
	}
}
