package encoder

import (
	"testing"

	"fewstep/engine"
	"fewstep/internal/xla"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/vae"

	"github.com/gomlx/compute/dtypes"
)

// However many pictures are asked for at once, SDXL's VAE takes no more of the device than for one of its own size; small
// ones go through it together.
func TestLargePicturesTakeTurns(t *testing.T) {
	config, err := vae.LoadConfig("../../model/golden/testdata/sdxl/vae/config.json")
	if err != nil {
		t.Fatal(err)
	}
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	p := &pipeline.Pipeline{VAE: config}
	peak := func(n, side int) float64 {
		e := engine.Dry(rt.Backend, dtypes.BFloat16, nn.Layer)
		e.Frozen, e.Flash = dtypes.BFloat16, true
		specs, err := p.VAESpecs(e.Backend)
		if err != nil {
			t.Fatal(err)
		}
		c := &Encoders{p: p, e: e, bind: engine.Bind{netVAE: e.BlankParams(specs, nil)}, n: n}
		latents := make([][]float32, n)
		for i := range latents {
			latents[i] = make([]float32, side/8*side/8*4)
		}
		images, err := c.Images(latents, pipeline.Square(side))
		if err != nil || len(images) != n || len(images[n-1]) != side*side*3 {
			t.Fatalf("%d images, %v", len(images), err)
		}
		if _, err := c.Latents(images, pipeline.Square(side)); err != nil {
			t.Fatal(err)
		}
		return float64(e.Memory().Peak) / 1e9
	}
	one, many, small := peak(1, 1024), peak(8, 1024), peak(8, 256)
	t.Logf("one of 1024 pixels %.2f GB, eight %.2f GB, eight of 256 %.2f GB", one, many, small)
	if many > 1.01*one {
		t.Errorf("eight pictures take %.2f GB, one takes %.2f", many, one)
	}
	if one > 4 || small < 0.3*one || small > one {
		t.Errorf("one takes %.2f GB, eight of a sixteenth %.2f", one, small)
	}
}

// What is used ahead is compiled, and computes nothing; the same use then compiles nothing.
func TestAhead(t *testing.T) {
	rt, err := xla.Open(xla.Go, xla.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	p, err := pipeline.Open("../../assets/mini")
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(rt.Backend, dtypes.Float32, nn.Network)
	c, err := Load(p, e, 2, TextPart, VAEPart)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Free()
	use := func(c *Encoders) error {
		if _, err := c.Text([]string{"a cat"}); err != nil {
			return err
		}
		for _, size := range []pipeline.Size{{Width: 16, Height: 16}, {Width: 24, Height: 16}} {
			if _, _, err := c.Posterior([][]float32{make([]float32, size.Width*size.Height*3)}, size); err != nil {
				return err
			}
		}
		return nil
	}
	if err := c.Ahead(t.Context(), use); err != nil {
		t.Fatal(err)
	}
	ahead := e.Compiled().Programs
	if ahead != 3 || e.Runs() != 0 {
		t.Errorf("%d programs compiled ahead, %d run; want one of text, two of pictures, none run", ahead, e.Runs())
	}
	if err := use(c); err != nil {
		t.Fatal(err)
	}
	if n := e.Compiled().Programs; n != ahead || e.Runs() == 0 {
		t.Errorf("%d programs compiled ahead, %d when they were run", ahead, n)
	}
}
