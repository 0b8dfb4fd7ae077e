package train

import (
	"errors"
	"fmt"

	"fewstep/data"
	"fewstep/data/feed"
	"fewstep/data/images"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/train/monitor"

	"github.com/gomlx/compute/dtypes"
)

// samples gives the training samples: latents and text embeddings of the data set, encoded once per run.
type samples struct {
	run        *Run
	set        *data.Set // the rows that are trained on
	order      *data.Order
	latents    records // of each row
	embeddings records // of each caption: the conditions that follow from it, in the denoiser's order
	caption    map[string]int
	empty      family.Conditions // of the empty prompt; nil = zeros
}

// records are encodings by number.
type records interface {
	read(i int, parts ...[]float32) error // puts record i into parts that take it up together
	close() error
}

// newSamples encodes the rows that can be drawn and every caption, unless an earlier process of the run did.
func (r *Run) newSamples() (_ *samples, err error) {
	if !r.leads() { // which makes the encodings
		if err := r.hear("encodings of the data set", nil); err != nil {
			return nil, err
		}
	}
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
	latent := r.Pipeline.UNetInputs(1, pipeline.Square(c.Resolution))[family.Sample].Size()
	if err := s.prepared(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.latents == nil {
		s.latents, err = asRecords(r.encoded(fmt.Sprintf("latents-decoder%d.f32", images.DecoderVersion), s.set.Len(), latent, s.encodeImages()))
		if err != nil {
			return nil, fmt.Errorf("encoding the images: %w", err)
		}
	}
	if s.embeddings == nil {
		s.embeddings, err = asRecords(r.encoded("captions.f32", len(captions), r.captionSize(), s.encodeCaptions(captions)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("encoding the captions: %w", err), s.close())
		}
	}
	if err := s.encodeEmpty(); err != nil {
		return nil, errors.Join(fmt.Errorf("encoding the empty prompt: %w", err), s.close())
	}
	if r.leads() {
		if err := r.hear("encodings of the data set", nil); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

func (s *samples) close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, x := range []records{s.latents, s.embeddings} {
		if x != nil {
			errs = append(errs, x.close())
		}
	}
	return errors.Join(errs...)
}

// encodeImages encodes rows of the data set.
func (s *samples) encodeImages() func(first, end int) ([][]float32, error) {
	c := s.run.Config.Data
	return s.encoding("images", encoder.VAEPart, s.set.Len(), func(enc *encoder.Encoders, first, end int) ([][]float32, error) {
		enc.Tile = c.VAETile
		images, failed := make([][]float32, end-first), make([]error, end-first)
		feed.Each(end-first, func(i int) { images[i], failed[i] = s.set.Image(first+i, c.Resolution) })
		if err := errors.Join(failed...); err != nil {
			return nil, err
		}
		return enc.Latents(images, pipeline.Square(c.Resolution))
	})
}

func (s *samples) encodeCaptions(captions []string) func(first, end int) ([][]float32, error) {
	return s.encoding("captions", encoder.TextPart, len(captions), func(enc *encoder.Encoders, first, end int) (out [][]float32, err error) {
		embeddings, err := enc.Text(captions[first:end])
		for _, v := range embeddings {
			out = append(out, s.run.ofCaption(v))
		}
		return out, err
	})
}

// ofCaption are the conditions that follow from a caption, in the denoiser's order.
func (r *Run) ofCaption(c family.Conditions) (out []float32) {
	for _, t := range r.Pipeline.Conditions() {
		if t.Caption {
			out = append(out, c[t.Name]...)
		}
	}
	return out
}

// captionSize is how many values they are.
func (r *Run) captionSize() (n int) {
	for _, t := range r.Pipeline.Conditions() {
		if t.Caption {
			n += t.Size()
		}
	}
	return n
}

// encodeEmpty encodes the empty prompt, for a model that does not take zeros for it.
func (s *samples) encodeEmpty() error {
	if s.run.Pipeline.ZeroEmpty {
		return nil
	}
	enc, err := encoder.Load(s.run.Pipeline, engine.New(s.run.opt.Backend, dtypes.Float32, nn.Network), 1, encoder.TextPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	s.empty, err = enc.Empty()
	return err
}

// encoding loads encoders for a chunk of n records, on every device of the run, which then share a chunk, and frees them
// after the last one; it tells how far it is. A record is the same from whichever device.
func (s *samples) encoding(what, part string, n int, encode func(enc *encoder.Encoders, first, end int) ([][]float32, error)) func(first, end int) ([][]float32, error) {
	var group *engine.Group
	var encoders []*encoder.Encoders
	var told func(done, total int)
	free := func() {
		for _, enc := range encoders {
			enc.Free()
		}
	}
	load := func() (err error) {
		e := engine.New(s.run.opt.Backend, dtypes.Float32, nn.Network)
		if group, err = engine.NewGroup(e, max(s.run.opt.Devices, 1), dtypes.Float32, nil); err != nil {
			return err
		}
		encoders = make([]*encoder.Encoders, len(group.Engines()))
		return group.Together(func(i int) (err error) {
			encoders[i], err = encoder.Load(s.run.Pipeline, group.Engines()[i], min(32, n), part)
			return err
		})
	}
	return func(first, end int) ([][]float32, error) {
		if encoders == nil {
			s.run.opt.Log.Info("encoding the data set", what, n, "done before", first)
			told = monitor.LogProgress(s.run.opt.Log, "encoding", what, first)
			if err := load(); err != nil {
				return nil, err
			}
		}
		out := make([][]float32, end-first)
		err := group.Together(func(i int) error {
			from, to := first+i*(end-first)/len(encoders), first+(i+1)*(end-first)/len(encoders)
			if from == to {
				return nil
			}
			records, err := encode(encoders[i], from, to)
			if err != nil {
				return fmt.Errorf("%s %d to %d: %w", what, from, to-1, err)
			}
			copy(out[from-first:], records)
			return nil
		})
		told(end, n)
		s.run.Working("encoding " + what)
		if err != nil || end == n {
			free()
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
