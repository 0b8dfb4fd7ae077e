package train_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/encoded"
	"fewstep/data/scaletest"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train"

	"github.com/gomlx/compute/dtypes"
)

// TestPace measures how fast images are encoded, from the disk and from an S3 server on the loopback, against the speed of
// the device alone, which is measured in turns with it: other work on the machine slows both. The model (a path from the repository's root, or an absolute one)
// and the side of the images are given:
// FEWSTEP_PACE=assets/mini FEWSTEP_PACE_SIDE=256 go test ./train -run 'TestPace$' -v
// The device is a GPU where there is one. The work is as much as takes some 40 s for each of the two, and four shards at least.
func TestPace(t *testing.T) {
	model := os.Getenv("FEWSTEP_PACE")
	if model == "" {
		t.Skip("FEWSTEP_PACE is not set")
	}
	const bare, long, turns = 8 * time.Second, 40 * time.Second, 4
	if !filepath.IsAbs(model) {
		model = filepath.Join("..", model)
	}
	side, _ := strconv.Atoi(os.Getenv("FEWSTEP_PACE_SIDE"))
	if side == 0 {
		side = 64
	}
	rt, err := xla.Open("", xla.Options{}) // before the cache moves: plugins lie there
	if err != nil {
		xlatest.Missing(t, err)
	}
	defer rt.Close()
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o777); err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Open(model)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := encoder.Load(p, engine.New(rt.Backend, dtypes.Float32, nn.Network), 16, encoder.VAEPart)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Free()
	d := configs.Default().Data
	d.Resolution = side
	s, err := train.Preparing(t.Context(), p, d, func(string) (*encoder.Encoders, error) { return enc, nil })
	if err != nil {
		t.Fatal(err)
	}
	s.Batch = 16
	alone := func(from string, long time.Duration) float64 {
		set, err := data.Open(t.Context(), from, data.Options{Unchecked: true})
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		speed, err := encoded.Bare(context.Background(), set, s, long)
		if err != nil {
			t.Fatal(err)
		}
		return speed
	}
	few, shard := filepath.Join(dir, "few.tar"), filepath.Join(dir, "bucket", "00000.tar")
	writePhotos(t, few, s.Batch, side*5/4)
	shards := max(turns, int(alone(few, bare)*long.Seconds())/encoded.PerShard)
	writePhotos(t, shard, shards*encoded.PerShard, side*5/4)
	scaletest.Start(t, "TestScaleServes", filepath.Join(dir, "bucket"))
	for _, from := range []string{shard, "s3://scale/00000.tar"} {
		set, err := data.Open(t.Context(), from, data.Options{Unchecked: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Source, s.Dir, s.Ranks = from, filepath.Join(dir, "encoded", fmt.Sprint(len(from))), turns
		var all encoded.Report
		speeds := []float64{alone(few, bare)}
		for s.Rank = range turns { // the shards of one of four processes
			r, err := encoded.Run(context.Background(), set, s)
			if err != nil {
				t.Fatal(err)
			}
			all.Images, all.Took, all.Waiting = all.Images+r.Images, all.Took+r.Took, all.Waiting+r.Waiting
			speeds = append(speeds, alone(few, bare))
		}
		if all.Images != shards*encoded.PerShard {
			t.Fatalf("%+v", all)
		}
		mean := 0.0
		for _, v := range speeds {
			mean += v / float64(len(speeds))
		}
		share := all.Speed() / mean
		t.Logf("%s, %d images of %d px on %s: %.1f images/s, %.1f %% of the device's bare speed, %.1f (%.1f); it waited %.1f %% of the time",
			filepath.Dir(from), all.Images, side, rt.Kind, all.Speed(), 100*share, mean, speeds, 100*all.Waiting.Seconds()/all.Took.Seconds())
		if share < 0.9 {
			t.Errorf("%.1f %% of the device's bare speed; at least 90 %% are wanted", 100*share)
		}
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writePhotos writes a tar of JPEG files with as much detail as photographs.
func writePhotos(t *testing.T, path string, n, side int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	var photos [][]byte
	for i := range 8 {
		m := image.NewRGBA(image.Rect(0, 0, side, side))
		state := uint32(i + 1)
		for y := range side {
			for x := range side {
				state = state*1664525 + 1013904223
				m.SetRGBA(x, y, color.RGBA{uint8(x*255/side)/2 + uint8(state>>26), uint8(y*255/side)/2 + uint8(state>>27), uint8(i*30) + uint8(state>>28), 255})
			}
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 90}); err != nil {
			t.Fatal(err)
		}
		photos = append(photos, b.Bytes())
	}
	for i := range n {
		for name, content := range map[string][]byte{".jpg": photos[i%len(photos)], ".txt": fmt.Appendf(nil, "photo %d", i)} {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%09d%s", i, name), Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
