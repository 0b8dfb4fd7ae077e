package train

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"fewstep/data"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/unet"

	"github.com/gomlx/compute/dtypes"
)

// samples gives the training samples: latents and text embeddings of the data set, encoded once per process.
type samples struct {
	run        *Run
	order      *data.Order
	latents    [][]float32
	embeddings []pipeline.Embedding
	caption    map[string]int
}

// newSamples encodes the rows that can be drawn and every caption.
func (r *Run) newSamples() (*samples, error) {
	c := r.Config.Data
	s := &samples{run: r, caption: map[string]int{}}
	train, err := data.Open(r.Config.SourcePath(), data.Options{Split: trainSplit(r.Data), MaxBad: c.MaxBad, CacheSize: c.Resolution})
	if err != nil {
		return nil, err
	}
	s.order, err = train.Order(data.OrderOptions{Seed: r.Config.Seed, Fine: c.Captions.Fine, Kind: c.Captions.Kind, Coarse: c.Captions.Coarse})
	if err != nil {
		return nil, err
	}
	r.opt.Log.Info("encoding the data set", "images", train.Len(), "captions", len(train.Captions()))
	for i, text := range train.Captions() {
		s.caption[text] = i
	}
	e := engine.New(r.opt.Backend, dtypes.Float32, nn.Network)
	if err := s.encodeImages(e, train); err != nil {
		return nil, err
	}
	return s, s.encodeCaptions(e, train)
}

// encoded is how many images or captions are encoded between two looks at the clock.
const encoded = 64

func (s *samples) encodeImages(e *engine.Engine, train *data.Set) error {
	c := s.run.Config.Data
	enc, err := s.run.Pipeline.LoadEncoders(e, min(32, train.Len()), pipeline.VAEPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	enc.Tile = c.VAETile
	told := s.run.tellEncoding("images", train.Len())
	for start := 0; start < train.Len(); start += encoded {
		var images [][]float32
		for i := start; i < min(start+encoded, train.Len()); i++ {
			v, err := train.Image(i, c.Resolution)
			if err != nil {
				return err
			}
			images = append(images, v)
		}
		z, err := enc.Latents(images, pipeline.Square(c.Resolution))
		if err != nil {
			return fmt.Errorf("encoding images %d to %d: %w", start, start+len(images)-1, err)
		}
		s.latents = append(s.latents, z...)
		told(len(s.latents))
	}
	return nil
}

func (s *samples) encodeCaptions(e *engine.Engine, train *data.Set) error {
	enc, err := s.run.Pipeline.LoadEncoders(e, min(32, train.Len()), pipeline.TextPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	captions := train.Captions()
	told := s.run.tellEncoding("captions", len(captions))
	for start := 0; start < len(captions); start += encoded {
		z, err := enc.Text(captions[start:min(start+encoded, len(captions))])
		if err != nil {
			return err
		}
		s.embeddings = append(s.embeddings, z...)
		told(len(s.embeddings))
	}
	return nil
}

// tellEncoding logs how far the encoding of something is, every five seconds.
func (r *Run) tellEncoding(what string, of int) func(n int) {
	began, last := time.Now(), time.Now()
	return func(n int) {
		if n < of && time.Since(last) >= 5*time.Second {
			last = time.Now()
			r.opt.Log.Info("encoding", what, n, "of", of, "eta", (time.Since(began) / time.Duration(n) * time.Duration(of-n)).Round(time.Second))
		}
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
		keys = append(keys, s.run.Data.Row(s.order.Row(first+int64(i))).Key)
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
	var text, pooled, ids []float32
	for i := range n {
		k := first + int64(i)
		if z := s.latents[s.order.Row(k)]; len(z) != size {
			return nil, fmt.Errorf("sample %d: its latent has %d values, the UNet takes %d", k, len(z), size)
		}
		emb := s.embeddings[s.caption[s.order.Caption(k)]]
		text, pooled, ids = append(text, emb.Text...), append(pooled, emb.Pooled...), append(ids, pipeline.TimeIDs(pixels)...)
	}
	each(n, func(i int) {
		k, to := first+int64(i), x[i*size:(i+1)*size]
		distill.Normal(to, c.Seed, distill.Noise, k)
		a, e := float32(b.InputA[i]), float32(b.InputB[i])
		for j, z := range s.latents[s.order.Row(k)] {
			to[j] = a*z + e*to[j]
		}
	})
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
