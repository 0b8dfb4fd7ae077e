package train

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"fewstep/data"
	"fewstep/data/images"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/unet"
	"fewstep/train/monitor"

	"github.com/gomlx/compute/dtypes"
)

// samples gives the training samples: latents and text embeddings of the data set, encoded once per run.
type samples struct {
	run        *Run
	set        *data.Set // the rows that are trained on
	order      *data.Order
	latents    *encoded // of each row
	embeddings *encoded // of each caption: text, then pooled
	caption    map[string]int
}

// newSamples encodes the rows that can be drawn and every caption, unless an earlier process of the run did.
func (r *Run) newSamples() (_ *samples, err error) {
	c := r.Config.Data
	s := &samples{run: r, set: r.Data, caption: map[string]int{}}
	if split := trainSplit(r.Data); split != "" {
		if s.set, err = r.Data.Only(split); err != nil {
			return nil, err
		}
	}
	s.order, err = s.set.Order(data.OrderOptions{Seed: r.Config.Seed, Fine: c.Captions.Fine, Kind: c.Captions.Kind, Coarse: c.Captions.Coarse})
	if err != nil {
		return nil, err
	}
	captions := s.set.Captions()
	for i, text := range captions {
		s.caption[text] = i
	}
	shapes := r.Pipeline.UNetInputs(1, pipeline.Square(c.Resolution))
	if s.latents, err = r.encoded(fmt.Sprintf("latents-decoder%d.f32", images.DecoderVersion), s.set.Len(), shapes[unet.InSample].Size(), s.encodeImages()); err != nil {
		return nil, fmt.Errorf("encoding the images: %w", err)
	}
	if s.embeddings, err = r.encoded("captions.f32", len(captions), shapes[unet.InText].Size()+shapes[unet.InPooled].Size(), s.encodeCaptions(captions)); err != nil {
		return nil, errors.Join(fmt.Errorf("encoding the captions: %w", err), s.close())
	}
	return s, nil
}

func (s *samples) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.latents.close(), s.embeddings.close())
}

// encodeImages encodes rows of the data set.
func (s *samples) encodeImages() func(first, end int) ([][]float32, error) {
	c := s.run.Config.Data
	return s.encoding("images", pipeline.VAEPart, s.set.Len(), func(enc *pipeline.Encoders, first, end int) ([][]float32, error) {
		enc.Tile = c.VAETile
		images, failed := make([][]float32, end-first), make([]error, end-first)
		each(end-first, func(i int) { images[i], failed[i] = s.set.Image(first+i, c.Resolution) })
		if err := errors.Join(failed...); err != nil {
			return nil, err
		}
		return enc.Latents(images, pipeline.Square(c.Resolution))
	})
}

func (s *samples) encodeCaptions(captions []string) func(first, end int) ([][]float32, error) {
	return s.encoding("captions", pipeline.TextPart, len(captions), func(enc *pipeline.Encoders, first, end int) (out [][]float32, err error) {
		embeddings, err := enc.Text(captions[first:end])
		for _, v := range embeddings {
			out = append(out, slices.Concat(v.Text, v.Pooled))
		}
		return out, err
	})
}

// encoding loads encoders for a chunk of n records, and frees them after the last one; it tells how far it is.
func (s *samples) encoding(what, part string, n int, encode func(enc *pipeline.Encoders, first, end int) ([][]float32, error)) func(first, end int) ([][]float32, error) {
	var enc *pipeline.Encoders
	var told func(done, total int)
	return func(first, end int) (out [][]float32, err error) {
		if enc == nil {
			s.run.opt.Log.Info("encoding the data set", what, n, "done before", first)
			told = monitor.LogProgress(s.run.opt.Log, "encoding", what, first)
			e := engine.New(s.run.opt.Backend, dtypes.Float32, nn.Network)
			if enc, err = s.run.Pipeline.LoadEncoders(e, min(32, n), part); err != nil {
				return nil, err
			}
		}
		if out, err = encode(enc, first, end); err != nil {
			err = fmt.Errorf("%s %d to %d: %w", what, first, end-1, err)
		}
		told(end, n)
		if err != nil || end == n {
			enc.Free()
		}
		return out, err
	}
}

// trainSplit is "train" where the source says which rows are for training.
func trainSplit(set *data.Set) string {
	for i := range set.Len() {
		if set.Row(i).Split == "train" {
			return "train"
		}
	}
	return ""
}

// keys names the rows of samples, for messages.
func (s *samples) keys(first int64, n int) (numbers []int64, keys []string) {
	for i := range n {
		numbers = append(numbers, first+int64(i))
		keys = append(keys, s.set.Row(s.order.Row(first+int64(i))).Key)
	}
	return numbers, keys
}

// inputs are a micro-batch on the device.
type inputs struct {
	*distill.Batch
	e     *engine.Engine
	x     *engine.Array   // x_t
	text  []*engine.Array // text, pooled, time ids
	owned []*engine.Array
}

func (in *inputs) free() { engine.Free(in.owned...) }

// upload keeps what it uploads until free.
func (in *inputs) upload(v []float32, dims ...int) (*engine.Array, error) {
	a, err := in.e.Upload(v, dims...)
	if err == nil {
		in.owned = append(in.owned, a)
	}
	return a, err
}

// column uploads per-sample coefficients.
func (in *inputs) column(v []float64) (*engine.Array, error) {
	f := make([]float32, len(v))
	for i := range v {
		f[i] = float32(v[i])
	}
	return in.upload(f, len(f))
}

// index uploads the network's timestep indices.
func (in *inputs) index(s *distill.Schedule, t []int) (*engine.Array, error) {
	f := make([]float32, len(t))
	for i := range t {
		f[i] = float32(s.NetworkIndex(t[i]))
	}
	return in.upload(f, len(f))
}

// batch makes samples first … first+n−1 of a phase: x_t by (1) with the schedule fix (3.5), captions, conditions.
func (s *samples) batch(sampler *distill.Sampler, first int64, n int) (*inputs, error) {
	p, c := s.run.Pipeline, s.run.Config
	b, err := sampler.Batch(first, n)
	if err != nil {
		return nil, err
	}
	in := &inputs{Batch: b, e: s.run.Engine}
	pixels := pipeline.Square(c.Data.Resolution)
	shapes := p.UNetInputs(n, pixels)
	size := shapes[unet.InSample].Size() / n
	x := make([]float32, n*size)
	words := shapes[unet.InText].Size() / n
	var text, pooled, ids []float32
	for i := range n {
		v, err := s.embeddings.read(s.caption[s.order.Caption(first+int64(i))])
		if err != nil {
			return nil, err
		}
		text, pooled, ids = append(text, v[:words]...), append(pooled, v[words:]...), append(ids, pipeline.TimeIDs(pixels)...)
	}
	failed := make([]error, n)
	each(n, func(i int) {
		k, to := first+int64(i), x[i*size:(i+1)*size]
		z, err := s.latents.read(s.order.Row(k))
		if err != nil {
			failed[i] = err
			return
		}
		distill.Normal(to, c.Seed, distill.Noise, k)
		a, e := float32(b.InputA[i]), float32(b.InputB[i])
		for j := range z {
			to[j] = a*z[j] + e*to[j]
		}
	})
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	if in.x, err = in.upload(x, shapes[unet.InSample].Dimensions...); err != nil {
		return nil, err
	}
	for i, v := range [][]float32{text, pooled, ids} {
		a, err := in.upload(v, shapes[unet.InText+i].Dimensions...)
		if err != nil {
			return nil, err
		}
		in.text = append(in.text, a)
	}
	return in, nil
}

// call builds a function's inputs: x, timestep indices, conditions, more.
func (in *inputs) call(x, t *engine.Array, more ...*engine.Array) []*engine.Array {
	return append([]*engine.Array{x, t, in.text[0], in.text[1], in.text[2]}, more...)
}

// viewNoise is the discriminator's ε*, shared by real and fake (3.7); zeros where it sees none.
func (s *samples) viewNoise(in *inputs, first int64, n int) (*engine.Array, error) {
	d := in.x.Shape().Dimensions
	size := in.x.Shape().Size() / n
	v := make([]float32, n*size)
	each(n, func(i int) {
		if in.ViewB[i] != 0 {
			distill.Normal(v[i*size:(i+1)*size], s.run.Config.Seed, distill.DiscriminatorNoise, first+int64(i))
		}
	})
	return in.upload(v, d...)
}

// each calls f for 0 … n−1 on all cores: noise is the largest part of what the host computes.
func each(n int, f func(i int)) {
	var wait sync.WaitGroup
	var next atomic.Int64
	for range min(n, runtime.GOMAXPROCS(0)) {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wait.Wait()
}
