package train_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/encoded"
	"fewstep/data/filter"
	"fewstep/data/scaletest"
	"fewstep/data/source"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"

	"github.com/gomlx/compute/dtypes"
)

// TestScaleServes is the storage of TestScale, in a process of its own.
func TestScaleServes(t *testing.T) { scaletest.Child(t) }

// scaleEncodes are the recipe, the source and the folder of TestScaleEncodes, in a process of its own.
var scaleEncodes = [3]string{"FEWSTEP_SCALE_RECIPE", "FEWSTEP_SCALE_SOURCE", "FEWSTEP_SCALE_OUT"}

// TestScaleEncodes is the encoding of TestScale that is killed.
func TestScaleEncodes(t *testing.T) {
	recipe, from, out := os.Getenv(scaleEncodes[0]), os.Getenv(scaleEncodes[1]), os.Getenv(scaleEncodes[2])
	if out == "" {
		t.Skip("a part of TestScale")
	}
	if _, err := encodeTiny(t, recipe, from, out); err != nil {
		t.Fatal(err)
	}
}

// encodeTiny encodes a source for the tiny recipe.
func encodeTiny(t *testing.T, recipe, from, out string) (encoded.Report, error) {
	t.Helper()
	c, err := configs.Load(recipe, "data.source="+from)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Open(c.ModelPath())
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	enc, err := encoder.Load(p, engine.New(rt.Backend, dtypes.Float32, nn.Network), 16, encoder.VAEPart, encoder.TextPart)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Free()
	s, err := train.Preparing(t.Context(), p, c.Data, func(string) (*encoder.Encoders, error) { return enc, nil })
	if err != nil {
		t.Fatal(err)
	}
	s.Dir, s.Source, s.Batch, s.TextLimit = out, from, 16, 1<<30
	set, err := data.Open(t.Context(), from, data.Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	return encoded.Run(context.Background(), set, s)
}

// TestScale walks the whole way over many small samples in tars of an S3 server on the loopback: it opens them, filters,
// encodes a slice in a process that is killed, continues, trains on the slice, and trains on all of them without encoding
// any before. It tells times and memory; of a million with
// FEWSTEP_SCALE=1000000 go test ./train -run 'TestScale$' -v -timeout 1h
func TestScale(t *testing.T) {
	rows := scaletest.Rows(8_000)
	perShard, slice := min(10_000, rows/2), min(4_000, rows/8)
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	recipe := with(t, tiny(t), adversarial)
	began := time.Now()
	lap := func(what string, args ...any) {
		now, most := scaletest.Resident(t)
		t.Logf("%-70s %8.1f s, heap and stacks %d MiB, at most %d MiB with mapped files", fmt.Sprintf(what, args...), time.Since(began).Seconds(), now, most)
		began = time.Now()
	}
	bucket := filepath.Join(dir, "bucket")
	if err := os.Mkdir(bucket, 0o777); err != nil {
		t.Fatal(err)
	}
	there, err := scaletest.Write(bucket, rows, perShard)
	if err != nil {
		t.Fatal(err)
	}
	scaletest.Start(t, "TestScaleServes", bucket)
	address := scaletest.Address(rows / perShard)
	lap("%d samples written in %d tars", rows, rows/perShard)

	f, err := source.Open(t.Context(), address, source.Options{})
	if err != nil || f.Len() != there {
		t.Fatal(f.Len(), there, err)
	}
	lap("opened, %d rows indexed over S3", f.Len())
	kept := filepath.Join(dir, "kept.parquet")
	x, err := filter.Compile(scaletest.Kept)
	if err != nil {
		t.Fatal(err)
	}
	var chosen []source.Selected
	if _, err := filter.Run(t.Context(), f, []*filter.Filter{x}, filter.Settings{}, func(row source.Selected) error {
		if len(chosen) < slice {
			chosen = append(chosen, row)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := source.WriteSelection(kept, address, f, []string{x.Text}, func() (source.Selected, error) {
		if n == len(chosen) {
			return source.Selected{}, io.EOF
		}
		n++
		return chosen[n-1], nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	lap("filtered by columns, %d of the kept ones chosen", len(chosen))

	out, whole := filepath.Join(dir, "encoded"), filepath.Join(dir, "whole")
	killed := exec.Command(os.Args[0], "-test.run", "^TestScaleEncodes$")
	killed.Env = append(os.Environ(), scaleEncodes[0]+"="+recipe, scaleEncodes[1]+"="+kept, scaleEncodes[2]+"="+out)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	shards := func() int {
		names, err := filepath.Glob(filepath.Join(out, "latents", "*.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	for range 60_000 {
		if shards() > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := errors.Join(killed.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	if err := killed.Wait(); err == nil {
		t.Log("the encoding ended before it was killed")
	}
	left := shards()
	lap("encoded until killed by SIGKILL, after %d shards of latents", left)
	r, err := encodeTiny(t, recipe, kept, out)
	if err != nil || r.Unfinished || r.Present < left || left == 0 {
		t.Fatalf("%+v, %v, with %d shards before", r, err, left)
	}
	lap("encoding continued: %d shards made, %d there, %.0f images/s", r.Made, r.Present, r.Speed())
	if _, err := encodeTiny(t, recipe, kept, whole); err != nil {
		t.Fatal(err)
	}
	if a, b := scaletest.Digests(t, out), scaletest.Digests(t, whole); !maps.Equal(a, b) {
		t.Errorf("%d files of the killed encoding, %d of one that was not; they differ", len(a), len(b))
	}
	lap("encoded again elsewhere without a kill: the same bytes")

	for _, c := range []struct {
		what string
		set  []string
	}{
		{"the encoded slice", []string{"data.source=" + out}},
		{"all, encoded while it trains", []string{"data.source=" + address, "data.encode_ahead=0"}},
	} {
		run := filepath.Join(t.TempDir(), "run")
		began = time.Now()
		walk(t, xla.Go, recipe, run, "8", xla.Options{}, []int{2}, append(c.set, "train.batch=2", "stages.8.phases.lora-cond.samples=10")...)
		finite(t, run)
		lap("trained 5 updates on %s, with a stop", c.what)
		x, err := train.OpenTrace(t.Context(), run, filepath.Join(filepath.Dir(recipe), "tinymodel"), "", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s, err := x.Sample(9)
		if err != nil || s.License != "CC0-1.0" || s.Key == "" || len(s.SHA256) != 64 {
			t.Errorf("%+v, %v", s, err)
		}
		x.Close()
		lap("sample 9 traced to %s of %s", s.Key, filepath.Base(s.Shard))
	}
	if now, _ := scaletest.Resident(t); now > 600 && scaletest.Rows(0) > 0 { // of a process that did this alone
		t.Errorf("%d MiB are held", now)
	}
}
