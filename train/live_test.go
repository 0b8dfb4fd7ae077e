package train

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/source"
	"fewstep/distill"
	"fewstep/internal/xla"
	"fewstep/internal/xla/xlatest"
	"fewstep/train/tinypipeline"
)

// told keeps what a run tells.
type told struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (l *told) Enabled(context.Context, slog.Level) bool { return true }
func (l *told) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += fmt.Sprintf(" %s=%v", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, text)
	return nil
}

// sized writes one-coloured images of the given sizes; those of size 0 are no images.
func sized(t *testing.T, sizes []bucket.Size) string {
	t.Helper()
	dir := t.TempDir()
	for i, s := range sizes {
		name := filepath.Join(dir, fmt.Sprintf("%03d", i))
		if err := os.WriteFile(name+".txt", []byte("a picture"), 0o666); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(name + ".png")
		if err != nil {
			t.Fatal(err)
		}
		if s.Width == 0 {
			_, err = f.WriteString("\x89PNG\r\n\x1a\nno image")
		} else {
			m := image.NewRGBA(image.Rect(0, 0, s.Width, s.Height))
			for k := range m.Pix {
				m.Pix[k] = 255
			}
			m.SetRGBA(0, 0, color.RGBA{uint8(i), 0, 0, 255})
			err = png.Encode(f, m)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openTiny is a run over the tiny pipeline, whose samples are opened.
func openTiny(t *testing.T, log slog.Handler, set ...string) *Run {
	t.Helper()
	recipe, err := tinypipeline.Write(t.TempDir(), filepath.Join("..", "model", "clip", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := configs.Load(recipe, set...)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		xlatest.Missing(t, err)
	}
	r, err := Open(t.Context(), c, Options{Dir: filepath.Join(t.TempDir(), "run"), Split: true, Backend: rt.Backend, Log: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); rt.Close() })
	return r
}

// What the networks are told of a sample is computed here again from the image's own size, by the rule that SDXL was trained
// by: the image is resized to cover the target, and the middle is cut out.
func TestMicroConditions(t *testing.T) {
	var sizes []bucket.Size
	for i := range 40 {
		sizes = append(sizes, bucket.Size{Width: 16 + i*37%90, Height: 16 + i*53%70})
	}
	for _, ahead := range []string{"0", "16"} {
		r := openTiny(t, slog.DiscardHandler, "data.source="+sized(t, sizes), "data.buckets={list: own, own: [16x16, 24x16, 16x32]}", "data.encode_ahead="+ahead, "train.batch=2", "stages.*.phases.*.samples=4")
		s, err := r.openLoader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.decodes != (ahead == "0") {
			t.Fatal(s.decodes)
		}
		seen := map[string]bool{}
		for k := range int64(60) {
			d, err := s.draw(k)
			if err != nil {
				t.Fatal(err)
			}
			i := mustNumber(t, s.set.Row(d.row).Key)
			w, h := float64(sizes[i].Width), float64(sizes[i].Height)
			var target [2]float64 // width, height: the nearest ratio, the first of equals
			nearest := math.Inf(1)
			for _, c := range [][2]float64{{16, 16}, {24, 16}, {16, 32}} {
				if sizes[i] == (bucket.Size{Width: int(c[0]), Height: int(c[1])}) {
					target, nearest = c, -1
				} else if far := math.Abs(c[0]/c[1] - w/h); far < nearest {
					target, nearest = c, far
				}
			}
			scale := math.Max(target[0]/w, target[1]/h)
			left, top := math.Floor((math.Floor(w*scale+0.5)-target[0])/2), math.Floor((math.Floor(h*scale+0.5)-target[1])/2)
			want := []float32{float32(h), float32(w), float32(max(top, 0)), float32(max(left, 0)), float32(target[1]), float32(target[0])}
			if !slices.Equal(d.sizes, want) {
				t.Errorf("sample %d of %v: told %v, want %v", k, sizes[i], d.sizes, want)
			}
			if first, err := s.draw(k / 2 * 2); err != nil || first.shape != d.shape {
				t.Errorf("samples %d and before are of %v and %v", k, first.shape, d.shape)
			}
			if s.decodes && len(d.pixels) != int(3*target[0]*target[1]) {
				t.Errorf("%d pixels for %v", len(d.pixels), target)
			}
			seen[d.shape.String()] = true
		}
		if len(seen) != 3 {
			t.Errorf("shapes %v", seen)
		}
	}
}

func mustNumber(t *testing.T, key string) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(key, "%d", &n); err != nil {
		t.Fatal(key, err)
	}
	return n
}

// Images that are smaller than their shape are counted and told, or left out; of images that are encoded while the run
// trains none is decoded before, and broken ones have others in their places, by a rule.
func TestSmallAndBrokenImages(t *testing.T) {
	var sizes []bucket.Size
	for i := range 40 {
		sizes = append(sizes, bucket.Size{Width: 12 + i%10, Height: 12 + i%10}) // four of ten are small
		if i%8 == 5 {
			sizes[i] = bucket.Size{}
		}
	}
	const broken = 5
	dir := sized(t, sizes)
	log := &told{}
	r := openTiny(t, log, "data.source="+dir, "data.encode_ahead=0", "data.max_bad=5")
	if n := r.Data.Len(); n != 40 || len(r.Data.Bad()) != 0 {
		t.Errorf("%d rows at the start, %d bad: images were decoded", n, len(r.Data.Bad()))
	}
	s, err := r.openLoader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var rows []int
	for k := range int64(120) {
		d, err := s.draw(k)
		if err != nil {
			t.Fatal(err)
		}
		if sizes[mustNumber(t, s.set.Row(d.row).Key)].Width == 0 {
			t.Fatalf("sample %d is a broken image", k)
		}
		rows = append(rows, d.row)
	}
	for k := int64(119); k >= 0; k-- { // in any order, as after a restart
		if d, err := s.draw(k); err != nil || d.row != rows[k] {
			t.Fatalf("sample %d: row %d, then %d, %v", k, rows[k], d.row, err)
		}
	}
	text := strings.Join(log.lines, "\n")
	if len(s.bad) != broken || strings.Count(text, "image left out") != broken || !strings.Contains(text, "images are enlarged") {
		t.Errorf("%d bad, told\n%s", len(s.bad), text)
	}
	s.Config.Data.MaxBad = 1
	s.bad = map[string]struct{}{}
	failed := 0
	for k := range int64(60) {
		if _, err := s.draw(k); err != nil {
			failed++
			if !strings.Contains(err.Error(), "data.max_bad") {
				t.Fatal(err)
			}
		}
	}
	if failed == 0 {
		t.Error("more broken images than allowed are accepted")
	}

	for _, ahead := range []string{"0", "16"} {
		log := &told{}
		r := openTiny(t, log, "data.source="+dir, "data.encode_ahead="+ahead, "data.max_bad=5", "data.small=drop")
		s, err := r.openLoader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for k := range int64(100) {
			d, err := s.draw(k)
			if err != nil {
				t.Fatal(err)
			}
			if was := sizes[mustNumber(t, s.set.Row(d.row).Key)]; was.Width < 16 {
				t.Errorf("encode_ahead %s: sample %d is of %v", ahead, k, was)
			}
		}
		if text := strings.Join(log.lines, "\n"); !strings.Contains(text, "are left out images=") {
			t.Errorf("told\n%s", text)
		}
	}
}

// counting counts the images that are read.
type counting struct {
	source.Source
	mu   sync.Mutex
	read map[int]int
}

func (c *counting) Encoded(i int) ([]byte, error) {
	c.mu.Lock()
	c.read[i]++
	c.mu.Unlock()
	return c.Source.Encoded(i)
}

// Drawing reads the images that are drawn and no others.
func TestDrawsReadLazily(t *testing.T) {
	src, err := source.Open(t.Context(), sized(t, slices.Repeat([]bucket.Size{{Width: 20, Height: 20}}, 50)), source.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &counting{Source: src, read: map[int]int{}}
	set, err := data.New(t.Context(), "counted", c, data.Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	order, err := set.Order(data.OrderOptions{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	s := &loader{Setup: &Setup{Config: configs.Default()}, set: set, order: order, shapes: []bucket.Size{{Width: 16, Height: 16}}, decodes: true}
	for k := range int64(10) {
		if _, err := s.draw(k); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.read) != 10 {
		t.Errorf("%d images were read for 10 samples", len(c.read))
	}
}

// A run in buckets trains with no program that was not compiled ahead, whichever shapes its samples have; of the largest shape
// alone there are fewer.
func TestBucketsAreCompiledAhead(t *testing.T) {
	sizes := []bucket.Size{{Width: 16, Height: 16}, {Width: 24, Height: 16}, {Width: 16, Height: 24}, {Width: 32, Height: 16}}
	programs := func(known bool) (ahead, all int) {
		var of []bucket.Size
		for i := range 32 {
			of = append(of, sizes[i%3]) // none is of the fourth
		}
		r := openTiny(t, slog.DiscardHandler, "data.source="+sized(t, of), "data.buckets={list: own, own: [16x16, 24x16, 16x24, 32x16]}", "train.batch=2",
			"stages.8.phases.lora-cond.samples=20")
		r.opt.Until = "8"
		err := r.takeDevices()
		if err == nil {
			_, err = r.models.base()
		}
		if err == nil {
			_, _, err = r.networks[0].Specs()
		}
		if err != nil {
			t.Fatal(err)
		}
		l, err := r.openLoader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		first := r.Ladder.Steps()[0]
		if shapes := l.order.Shapes(first.First, first.First+first.Samples); len(shapes) < 2 || len(l.others(first)) != len(shapes) || slices.Contains(shapes, 3) {
			t.Fatalf("the first phase has the shapes %v, others than the largest are %v", shapes, l.others(first))
		}
		ordered, ctx := make(chan *loader, 1), t.Context()
		if known {
			ordered <- l
		} else {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(ctx, 3*time.Second) // it waits for the order
			defer stop()
		}
		r.compileAhead(ctx, distill.State{}, ordered)
		ahead = r.Engine.Compiled().Programs
		if _, err := r.Walk(t.Context()); err != nil {
			t.Fatal(err)
		}
		return ahead, r.Engine.Compiled().Programs
	}
	ahead, all := programs(true)
	largest, same := programs(false)
	t.Logf("%d of %d programs are compiled ahead, %d of %d of the largest shape alone", ahead, all, largest, same)
	if ahead != all || same != all || largest >= ahead {
		t.Error("other shapes are not compiled ahead")
	}
}
