package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fewstep/internal/xla"
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

// The script fills the table on virtual CPU devices, goes on where it was stopped, and plans what each device takes.
func TestScalingScript(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the program and runs it")
	}
	rt, err := xla.Open(xla.CPU, xla.Options{})
	if err != nil {
		t.Skip(err)
	}
	rt.Close()
	dir := t.TempDir()
	program := filepath.Join(dir, "fewstep")
	if raw, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "fewstep/cmd/fewstep").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	run := func(budget string) string {
		t.Helper()
		c := exec.Command("sh", "scaling.sh")
		c.Env = append(os.Environ(), "FEWSTEP="+program, "FEWSTEP_PROGRAM_CACHE="+filepath.Join(dir, "programs"), "XLA_FLAGS=--xla_backend_optimization_level=0", "OUT="+filepath.Join(dir, "out"), "BACKEND=cpu", "BUDGET="+budget, "STEPS=mse-lora", "PER=1", "ACCUMULATE=2", "ITERS=1",
			"ARGS=--preset mini --side 8 --rank 4 --granularity stage --calls stage")
		raw, err := c.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, raw)
		}
		return string(raw)
	}
	table := run("500")
	// One device with one sample and with two; two devices replicated, sharded and in bf16; two micro-batches on one and two.
	if rows := strings.Count(table, "| mse-lora"); rows != 7 {
		t.Errorf("%d rows:\n%s", rows, table)
	}
	if n := strings.Count(table, " %"); n < 4 {
		t.Errorf("only %d shares:\n%s", n, table)
	}
	if again := run("0"); again != table { // all is there
		t.Errorf("the second table differs:\n%s\n%s", table, again)
	}
}
