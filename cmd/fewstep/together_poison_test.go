package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"fewstep/data/images"
	"fewstep/train"
	"fewstep/train/monitor"
	"fewstep/train/rundir"
	"fewstep/train/tinypipeline"
)

// A record that rank 1 alone reads is not finite, or too large for any sum: both ranks stop at the update that drew it, which
// changed nothing, and name its sample; no checkpoint is made after it.
func TestTogetherOneRankNotFinite(t *testing.T) {
	s := newShared(t)
	dir := filepath.Join(t.TempDir(), "run")
	startRanks(t, 2, nil, s.args(dir, "--set", "eval.sheet_samples=0")...).ended(t, exitOK)

	// A sample of rank 1's half of an update whose row nobody drew before.
	drawn := map[int]bool{}
	var poison *train.Traced
	update := int64(1)
	for ; poison == nil && update <= 12; update++ {
		out, errs, code := runCommand(t, "data", "trace", dir, "--update", fmt.Sprintf("8/lora-cond/%d", update), "--json",
			"--model", filepath.Join(filepath.Dir(s.recipe), "tinymodel"), "--source", filepath.Join(filepath.Dir(s.recipe), "images.parquet"))
		var traced struct{ Samples []train.Traced }
		if err := json.Unmarshal([]byte(out), &traced); code != exitOK || err != nil || len(traced.Samples) != 4 {
			t.Fatalf("code %d, %v: %s%s", code, err, out, errs)
		}
		for i, x := range traced.Samples {
			if update >= 4 && i >= 2 && !drawn[x.Row] && poison == nil {
				poison = &traced.Samples[i]
			}
			drawn[x.Row] = true
		}
	}
	if poison == nil {
		t.Fatal("rank 1 draws no row of its own")
	}
	update--
	records, err := tinypipeline.Records()
	if err != nil {
		t.Fatal(err)
	}
	row, rows := 0, 0 // among those that are trained on
	for i, r := range records {
		if r.Split == "train" {
			if i < poison.Row {
				row++
			}
			rows++
		}
	}
	if records[poison.Row].Key != poison.Key {
		t.Fatalf("row %d is %s", poison.Row, poison.Key)
	}
	latents := filepath.Join(dir, "encoded", fmt.Sprintf("latents-decoder%d.f32", images.DecoderVersion))
	whole, err := os.ReadFile(latents)
	if err != nil || len(whole)%(4*rows) != 0 {
		t.Fatalf("%d bytes of %d rows, %v", len(whole), rows, err)
	}

	for name, value := range map[string]float64{"NaN": math.NaN(), "huge": 3e38} {
		t.Run(name, func(t *testing.T) {
			if out, errs, code := runCommand(t, "rewind", dir, "--to", "8/lora-cond"); code != exitOK {
				t.Fatalf("code %d, %s%s", code, out, errs)
			}
			bad := slices.Clone(whole)
			size := len(whole) / rows
			for i := row * size; i < (row+1)*size; i += 4 {
				binary.LittleEndian.PutUint32(bad[i:], math.Float32bits(float32(value)))
			}
			encodes(t, dir, filepath.Base(latents), bad)
			r := startRanks(t, 2, nil, s.args(dir, "--set", "eval.sheet_samples=0")...)
			r.ended(t, exitNonFinite)
			at := regexp.MustCompile(`stage 8, phase lora-cond, step (\d+), samples \[([^\]]*)\]`)
			for rank := range 2 {
				told := at.FindStringSubmatch(r.errs[rank].String())
				if told == nil || told[1] != fmt.Sprint(update) || !slices.Contains(strings.Fields(told[2]), poison.Key) {
					t.Errorf("rank %d tells %q, want step %d and %s:\n%s", rank, told, update, poison.Key, r.errs[rank])
				}
			}
			last := int64(0) // sample that a sound update has trained
			stats, err := monitor.ReadStats(filepath.Join(dir, "stats.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range stats {
				if rec.Kind == monitor.KindStep {
					if last = rec.Samples; rec.Step >= update {
						t.Errorf("update %d is in the statistics", rec.Step)
					}
				}
			}
			saved, _ := filepath.Glob(filepath.Join(dir, "stages", "8", "lora-cond", "checkpoints", "*", "manifest.json"))
			if len(saved) == 0 {
				t.Error("there is no checkpoint of the updates before")
			}
			for _, path := range saved {
				var samples int64
				if _, err := fmt.Sscan(strings.TrimLeft(filepath.Base(filepath.Dir(path)), "0"), &samples); err != nil || samples > last || samples < 4 {
					t.Errorf("%s, and the last sound update ended at sample %d: %v", path, last, err)
				}
			}
		})
	}
}

// encodes puts records into a run directory, as if the encoders had made them.
func encodes(t *testing.T, dir, name string, records []byte) {
	t.Helper()
	v, err := rundir.View(dir)
	if err != nil {
		t.Fatal(err)
	}
	config, err := v.Config()
	if err != nil {
		t.Fatal(err)
	}
	lineage := v.Lineage()
	v.Close()
	d, err := rundir.Open(dir, config, lineage)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.SaveArtifact(rundir.Encoded, rundir.Bytes(name, records)); err != nil {
		t.Fatal(err)
	}
}
