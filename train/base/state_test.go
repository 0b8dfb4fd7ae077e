package base

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fewstep/internal/xla"
	"fewstep/train/tinypipeline"
)

// stopAfter is a context that is cancelled when it was asked n times.
type stopAfter struct {
	context.Context
	n *int
}

func (c stopAfter) Err() error {
	if *c.n--; *c.n < 0 {
		return context.Canceled
	}
	return nil
}

// recipe makes a tiny model directory with images, and a recipe for its UNet.
func recipe(t *testing.T) *Config {
	t.Helper()
	dir := t.TempDir()
	if _, err := tinypipeline.Write(dir, "../../model/clip/testdata"); err != nil {
		t.Fatal(err)
	}
	c := &Config{Seed: 3, Model: filepath.Join(dir, "tinymodel"), Data: filepath.Join(dir, "images.parquet"), Resolution: tinypipeline.Resolution,
		Compute: "f32", Captions: Captions{Fine: 1}, CheckpointMinutes: 60,
		UNet: UNetPart{Part: Part{Samples: 24, Batch: 4, LR: 1e-3, Warmup: 8, WeightDecay: 0.01, ClipNorm: 1, EMA: 0.9}, Dropout: 0.2, MinSNR: 5, NoiseOffset: 0.1}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t *testing.T, ctx context.Context, c *Config) error {
	t.Helper()
	rt, err := xla.Open(xla.Auto, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	trainer := &Trainer{Config: c, Backend: rt.Backend, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := trainer.open(t.Context()); err != nil { // apart: it asks the context, too
		t.Fatal(err)
	}
	return trainer.trainParts(ctx)
}

func weightsOf(t *testing.T, c *Config) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(c.Model, "unet", "diffusion_pytorch_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A training that is stopped while its data are checked says so as any that is stopped.
func TestStoppedWhileOpening(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := (&Trainer{Config: recipe(t), Log: slog.New(slog.DiscardHandler)}).Run(ctx); !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v", err)
	}
}

// A training that was stopped twice ends in the same bytes as one that was not.
func TestStoppedTrainingEndsTheSame(t *testing.T) {
	whole, parts := recipe(t), recipe(t)
	if err := run(t, context.Background(), whole); err != nil {
		t.Fatal(err)
	}
	for _, updates := range []int{-1, 1, 3} { // the first time before the images are encoded
		n := updates + 1 // encoding asks once
		if err := run(t, stopAfter{context.Background(), &n}, parts); !errors.Is(err, ErrInterrupted) {
			t.Fatalf("stopped after %d updates: %v", updates, err)
		}
	}
	if bytes.Equal(weightsOf(t, whole), weightsOf(t, parts)) {
		t.Fatal("the weights are those of the end before the training is there")
	}
	if err := run(t, context.Background(), parts); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(weightsOf(t, whole), weightsOf(t, parts)) {
		t.Error("a training that was stopped and continued has other weights")
	}
	if _, err := os.Stat(filepath.Join(parts.Model, "training", "unet.safetensors")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state is still there: %v", err)
	}
}

// What is trained is not trained again, and another recipe is refused.
func TestTrainedAlready(t *testing.T) {
	c := recipe(t)
	c.UNet.Samples = 8
	if err := run(t, context.Background(), c); err != nil {
		t.Fatal(err)
	}
	before := weightsOf(t, c)
	if err := run(t, context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, weightsOf(t, c)) {
		t.Error("the UNet was trained again")
	}
	c.UNet.LR = 2e-3
	if err := run(t, context.Background(), c); err == nil || !strings.Contains(err.Error(), "another recipe") {
		t.Errorf("another recipe on a trained model: %v", err)
	}
	n := 2
	c = recipe(t)
	if err := run(t, stopAfter{context.Background(), &n}, c); !errors.Is(err, ErrInterrupted) {
		t.Fatal(err)
	}
	c.UNet.LR = 2e-3
	if err := run(t, context.Background(), c); err == nil || !strings.Contains(err.Error(), "another recipe") {
		t.Errorf("another recipe on a saved state: %v", err)
	}
}
