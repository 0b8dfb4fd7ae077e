// Package encoder runs a pipeline's text encoders and VAE on a device: prompts to conditions, pictures to latents and back.
package encoder

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"fewstep/engine"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/vae"
	"fewstep/model/weights"

	"github.com/gomlx/gomlx/core/graph"
)

// Encoders are a pipeline's text encoders and VAE on a device.
type Encoders struct {
	// Tile is the side in pixels of the VAE's tiles for pictures larger than that (see [vae.Tiling]); 0 = pictures are
	// encoded and decoded whole.
	Tile int

	p    *pipeline.Pipeline
	e    *engine.Engine
	bind engine.Bind
	of   map[string][]nn.Spec // what is bound
	n    int                  // prompts or pictures per program call; fewer pictures where they are large
}

// Names under which the encoders' parameters are bound.
const netVAE = "vae"

func netText(i int) string { return fmt.Sprintf("text%d", i+1) }

// Parts of a pipeline that Load can load.
const (
	TextPart = "text" // all text encoders
	VAEPart  = "vae"
)

// pixelsTogether is how many pixels the VAE works on in one call, if a picture does not have more: it holds gigabytes of
// activations for a single picture of 1024 pixels (see [vae.Tiling]), which is enough work for any device.
const pixelsTogether = 1 << 20

// together is how many pictures of so many pixels go through the VAE in one call.
func (c *Encoders) together(pixels int) int { return min(c.n, max(1, pixelsTogether/pixels)) }

// Load puts the named parts on the engine's device; programs work on batches of n, the VAE's on fewer where
// pictures are large.
func Load(p *pipeline.Pipeline, e *engine.Engine, n int, parts ...string) (*Encoders, error) {
	return load(p, e, n, nil, parts...)
}

// LoadText is Load of the text encoders, with what a LoRA of the weights changes of them.
func LoadText(p *pipeline.Pipeline, w *pipeline.Weights, e *engine.Engine, n int) (*Encoders, error) {
	return load(p, e, n, w.Text(), TextPart)
}

// load takes the weights of some components from elsewhere.
func load(p *pipeline.Pipeline, e *engine.Engine, n int, instead map[string]weights.Source, parts ...string) (*Encoders, error) {
	c := &Encoders{p: p, e: e, bind: engine.Bind{}, of: map[string][]nn.Spec{}, n: n}
	put := func(net, component string, specs []nn.Spec) error {
		src, ok := instead[component]
		if !ok {
			var err error
			if src, err = pipeline.OpenWeights(p.Dir, component); err != nil {
				return err
			}
			defer src.Close()
		}
		c.of[net] = specs
		var err error
		if c.bind[net], err = e.LoadFunc(specs, pipeline.Reader(src), nil); err != nil {
			return fmt.Errorf("%s/%s: %w", p.Dir, component, err)
		}
		return nil
	}
	for i, component := range p.Kind.Text {
		if !slices.Contains(parts, TextPart) {
			break
		}
		specs, err := nn.Trace(e.Backend, p.Text[i].Text(""), p.TextShapes(1)...)
		if err != nil {
			return nil, err
		}
		if err := put(netText(i), component, specs); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(parts, VAEPart) {
		return c, nil
	}
	specs, err := p.VAESpecs(e.Backend)
	if err != nil {
		return nil, err
	}
	return c, put(netVAE, "vae", specs)
}

// Free gives the encoders' device memory back; of nil there is none.
func (c *Encoders) Free() {
	if c == nil {
		return
	}
	for _, p := range c.bind {
		p.FreeAll()
	}
}

// Ahead gives use encoders like these that compute nothing, and compiles the programs that it would run: see
// [engine.Engine.Ahead].
func (c *Encoders) Ahead(ctx context.Context, use func(*Encoders) error) error {
	return c.e.Ahead(ctx, func(e *engine.Engine) error {
		like := &Encoders{Tile: c.Tile, p: c.p, e: e, bind: engine.Bind{}, of: c.of, n: c.n}
		for net, specs := range c.of {
			like.bind[net] = e.BlankParams(specs, nil)
		}
		return use(like)
	})
}

// Text encodes prompts to the conditions that follow from captions.
func (c *Encoders) Text(prompts []string) ([]family.Conditions, error) {
	key, names := "text/", []string{}
	for i, text := range c.p.Text {
		key += text.Text("").Kind
		names = append(names, netText(i))
	}
	f := engine.Function{Key: key, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return c.p.Kind.Encode(r, c.p.Text, names, in)
	}}
	made := c.p.Kind.Conditions(c.p.Text)
	out := make([]family.Conditions, 0, len(prompts))
	for start := 0; start < len(prompts); start += c.n {
		batch := prompts[start:min(start+c.n, len(prompts))]
		in, err := c.tokens(batch)
		if err != nil {
			return nil, err
		}
		res, err := c.run(f, in)
		if err != nil {
			return nil, fmt.Errorf("encoding prompts: %w", err)
		}
		for i := range batch {
			one := family.Conditions{}
			for k, m := range made {
				n := m.Size()
				one[m.Name] = res[k][i*n : (i+1)*n]
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// tokens are a batch's token ids and end-of-text positions for every text encoder, the last prompt repeated to fill it.
func (c *Encoders) tokens(batch []string) (in []*engine.Array, err error) {
	tokens := c.p.Tokens()
	for k, text := range c.p.Text {
		ids, eos := make([]int32, c.n*tokens), make([]int32, c.n)
		for i := range c.n {
			id, _ := c.p.Tokenizer[k].Encode(batch[min(i, len(batch)-1)])
			copy(ids[i*tokens:(i+1)*tokens], id)
			eos[i] = text.EOSPosition(id)
		}
		for _, v := range []struct {
			data any
			dims []int
		}{{ids, []int{c.n, tokens}}, {eos, []int{c.n}}} {
			a, err := c.e.Upload(v.data, v.dims...)
			if err != nil {
				engine.Free(in...)
				return nil, err
			}
			in = append(in, a)
		}
	}
	return in, nil
}

// Empty encodes what guidance leads away from: the empty prompt, or nil where that is zeros for this model.
func (c *Encoders) Empty() (family.Conditions, error) {
	if c.p.ZeroEmpty {
		return nil, nil
	}
	out, err := c.Text([]string{""})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// run calls f, frees its inputs and returns its outputs on the host.
func (c *Encoders) run(f engine.Function, in []*engine.Array) ([][]float32, error) {
	out, err := c.begin(f, in)
	if err != nil {
		return nil, err
	}
	return c.end(out)
}

// begin calls f and frees its inputs; the outputs come later.
func (c *Encoders) begin(f engine.Function, in []*engine.Array) ([]*engine.Array, error) {
	out, err := c.e.Call(f, c.bind, in...)
	engine.Free(in...)
	return out, err
}

// end waits for outputs and frees them.
func (c *Encoders) end(out []*engine.Array) (host [][]float32, err error) {
	defer engine.Free(out...)
	host = make([][]float32, len(out))
	for i, a := range out {
		if host[i], err = c.e.Floats(a); err != nil {
			return nil, err
		}
	}
	return host, nil
}

// Latents encodes images, [H·W·3] each in [−1, 1], to scaled latents [h·w·C]: the mean of the posterior.
func (c *Encoders) Latents(images [][]float32, size pipeline.Size) ([][]float32, error) {
	f := engine.Function{Key: "encode/" + c.p.VAE.Encoder("").Kind, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(c.p.VAE.Encoder(netVAE), in[0])[:1]
	}}
	mean, scale := c.p.VAE.LatentScale()
	z, err := c.tiled(f, images, size.Height, size.Width, 3, 1, c.p.VAE.EncodeTiles)
	for _, v := range z {
		for i := range v {
			k := i % len(mean)
			v[i] = float32((float64(v[i]) - mean[k]) * scale[k])
		}
	}
	return z, err
}

// Posterior is Latents with the posterior's standard deviations, scaled alike: a sample is mean + deviation · ε.
func (c *Encoders) Posterior(images [][]float32, size pipeline.Size) (mean, deviation [][]float32, err error) {
	f := engine.Function{Key: "posterior/" + c.p.VAE.Encoder("").Kind, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		moments := r.Run(c.p.VAE.Encoder(netVAE), in[0])
		return r.Run(nn.Block{Kind: "posterior", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.Concatenate([]*graph.Node{in[0], graph.Exp(graph.MulScalar(in[1], 0.5))}, -1)}
		}}, moments...)
	}}
	shift, scale := c.p.VAE.LatentScale()
	both, err := c.tiled(f, images, size.Height, size.Width, 3, 1, c.p.VAE.EncodeTiles)
	for _, v := range both {
		n := len(shift)
		m, d := make([]float32, 0, len(v)/2), make([]float32, 0, len(v)/2)
		for i := 0; i < len(v); i += 2 * n {
			for k := range n {
				m, d = append(m, float32((float64(v[i+k])-shift[k])*scale[k])), append(d, float32(float64(v[i+n+k])*scale[k]))
			}
		}
		mean, deviation = append(mean, m), append(deviation, d)
	}
	return mean, deviation, err
}

// Images decodes scaled latents [h·w·C] to images [H·W·3], about [−1, 1].
func (c *Encoders) Images(latents [][]float32, size pipeline.Size) ([][]float32, error) {
	f := engine.Function{Key: "decode/" + c.p.VAE.Decoder("").Kind, Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		return r.Run(c.p.VAE.Decoder(netVAE), in[0])
	}}
	mean, scale := c.p.VAE.LatentScale()
	raw := make([][]float32, len(latents))
	for i, z := range latents {
		raw[i] = make([]float32, len(z))
		for j := range z {
			k := j % len(mean)
			raw[i][j] = float32(float64(z[j])/scale[k] + mean[k])
		}
	}
	factor := c.p.Factor()
	return c.tiled(f, raw, size.Height/factor, size.Width/factor, c.p.VAE.LatentChannels, factor, c.p.VAE.DecodeTiles)
}

// tiled runs f over maps [height, width, channels], in tiles if they are wanted and the maps are larger than one. A picture
// is scale times as high and as wide as its map.
func (c *Encoders) tiled(f engine.Function, in [][]float32, height, width, channels, scale int, tiles func(side int) (vae.Tiling, error)) ([][]float32, error) {
	if c.Tile == 0 {
		return c.maps(f, in, height, width, channels, c.together(height*width*scale*scale))
	}
	t, err := tiles(c.Tile)
	if err != nil {
		return nil, err
	}
	if !t.Applies(height, width) {
		return c.maps(f, in, height, width, channels, c.together(height*width*scale*scale))
	}
	return t.Run(in, height, width, func(cut []vae.Tile) ([]vae.Tile, error) {
		values := make([][]float32, len(cut))
		for i, v := range cut {
			values[i] = v.Values
		}
		h, w := cut[0].Height, cut[0].Width
		out, err := c.maps(f, values, h, w, channels, c.together(h*w*scale*scale))
		if err != nil {
			return nil, err
		}
		done := make([]vae.Tile, len(out))
		for i, v := range out {
			done[i] = vae.Tile{Height: t.After(h), Width: t.After(w), Values: v}
		}
		return done, nil
	})
}

// maps runs f over batches of n, the last one padded. A batch is uploaded while the device is at work on the one before.
func (c *Encoders) maps(f engine.Function, in [][]float32, height, width, channels, n int) ([][]float32, error) {
	size := height * width * channels
	for i, v := range in {
		if len(v) != size {
			return nil, fmt.Errorf("image %d has %d values, want %d×%d×%d", i, len(v), height, width, channels)
		}
	}
	upload := func(start int) (*engine.Array, error) {
		if start >= len(in) {
			return nil, nil
		}
		flat := in[start]
		if n > 1 {
			flat = make([]float32, n*size)
			for i, v := range in[start:min(start+n, len(in))] {
				copy(flat[i*size:], v)
			}
		}
		return c.e.Upload(flat, n, height, width, channels)
	}
	out := make([][]float32, 0, len(in))
	next, err := upload(0)
	for start := 0; start < len(in) && err == nil; start += n {
		var began []*engine.Array
		if began, err = c.begin(f, []*engine.Array{next}); err != nil {
			return nil, err
		}
		next, err = upload(start + n)
		res, failed := c.end(began)
		if err = cmp.Or(err, failed); err != nil {
			break
		}
		made := len(res[0]) / n
		for i := range min(n, len(in)-start) {
			out = append(out, res[0][i*made:(i+1)*made:(i+1)*made])
		}
	}
	if err != nil {
		engine.Free(next)
		return nil, err
	}
	return out, nil
}
