package train

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"fewstep/configs"
	"fewstep/data/bucket"
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

// records are encodings by number.
type records interface {
	read(i int, parts ...[]float32) error // puts record i into parts that take it up together
	close() error
}

// latentSize is how many values the latents of a shape have; with deviations a record has twice as many.
func (s *Setup) latentSize(shape bucket.Size) int {
	return s.Pipeline.UNetInputs(1, pipeline.Size(shape))[family.Sample].Size()
}

// deviates says whether latents are drawn from the posterior.
func (s *Setup) deviates() bool { return s.Config.Data.Posterior == configs.PosteriorSample }

// recordSize is how many values the record of an image of a shape has: the means of its latents, then their deviations.
func (s *Setup) recordSize(shape bucket.Size) int {
	if s.deviates() {
		return 2 * s.latentSize(shape)
	}
	return s.latentSize(shape)
}

// ahead is how many bytes of encodings of a kind are made before training, at most.
func (s *Setup) ahead() int64 { return int64(s.Config.Data.EncodeAhead * (1 << 30)) }

// mostAhead is for how many images encodings are made before training, at most.
func (s *Setup) mostAhead() int {
	return int(s.ahead() / int64(4*s.recordSize(s.Config.Data.Largest())))
}

// encode makes what is made before training, unless an earlier process of the run did, and loads the encoders of the rest.
func (s *loader) encode(ctx context.Context) error {
	if err := s.prepared(ctx); err != nil {
		return err
	}
	var parts []string
	if s.latents == nil {
		if s.decodes {
			parts = append(parts, encoder.VAEPart)
		} else if err := s.encodeImages(ctx); err != nil {
			return fmt.Errorf("encoding the images: %w", err)
		}
	}
	if s.embeddings == nil {
		most := int(s.ahead() / int64(4*s.captionSize()))
		var captions []string
		if s.set.Len() <= 4*most { // captions repeat at times, not that often
			captions = s.set.Captions()
		}
		if captions == nil || len(captions) > most {
			parts = append(parts, encoder.TextPart)
		} else if err := s.encodeCaptions(ctx, captions); err != nil {
			return fmt.Errorf("encoding the captions: %w", err)
		}
	}
	if err := s.encodeEmpty(ctx); err != nil {
		return fmt.Errorf("encoding the empty prompt: %w", err)
	}
	if len(parts) == 0 {
		return nil
	}
	s.log.Info("encoded while the run trains, because it takes more than data.encode_ahead: "+strings.Join(parts, ", "), "images", s.set.Len(), "GiB", s.Config.Data.EncodeAhead)
	group, live, err := s.encoders(ctx, s.Config.Train.Batch/s.devices(), parts...)
	if err != nil {
		return err
	}
	during(s.until, group.Engines())
	s.live = live
	s.compiling.Go(func() { _ = live[0].Ahead(s.until, s.rehearse) }) // what fails here fails again when it is used
	return nil
}

// rehearse goes the way of what is encoded while the run trains: a caption, and a picture of every shape that is trained on.
func (s *loader) rehearse(enc *encoder.Encoders) error {
	if s.embeddings == nil {
		if _, err := enc.Text([]string{""}); err != nil {
			return err
		}
	}
	if !s.decodes {
		return nil
	}
	for _, n := range s.order.Shapes(0, s.order.Len()) {
		shape := s.shapes[n]
		if _, err := s.toLatents(enc, [][]float32{make([]float32, shape.Width*shape.Height*3)}, shape); err != nil {
			return err
		}
	}
	return nil
}

// encoders loads encoders on every device of the run; programs work on batches of n.
func (s *loader) encoders(ctx context.Context, n int, parts ...string) (*engine.Group, []*encoder.Encoders, error) {
	e := engine.New(s.backend, dtypes.Float32, nn.Network)
	group, err := engine.NewGroup(e, s.each, dtypes.Float32, nil)
	if err != nil {
		return nil, nil, err
	}
	during(ctx, group.Engines())
	out := make([]*encoder.Encoders, len(group.Engines()))
	err = group.Together(func(i int) (err error) {
		if out[i], err = encoder.Load(s.Pipeline, group.Engines()[i], n, parts...); err == nil {
			out[i].Tile = s.Config.Data.VAETile
		}
		return err
	})
	return group, out, err
}

// toLatents encodes pictures of one shape as records.
func (s *Setup) toLatents(enc *encoder.Encoders, pictures [][]float32, shape bucket.Size) ([][]float32, error) {
	if !s.deviates() {
		return enc.Latents(pictures, pipeline.Size(shape))
	}
	mean, deviation, err := enc.Posterior(pictures, pipeline.Size(shape))
	for i := range mean {
		mean[i] = append(mean[i], deviation[i]...)
	}
	return mean, err
}

// byShape are records of rows in a file for each shape.
type byShape struct {
	files []*fileRecords // nil where no row has the shape
	shape []int16        // of each row; nil = all 0
	place []int32        // of each row in its shape's file; nil = the row's number
}

func (b *byShape) read(i int, parts ...[]float32) error {
	if b.shape == nil {
		return b.files[0].read(i, parts...)
	}
	return b.files[b.shape[i]].read(int(b.place[i]), parts...)
}

func (b *byShape) close() error {
	var errs []error
	for _, f := range b.files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// encodeImages encodes the rows that can be drawn, shape by shape.
func (s *loader) encodeImages(ctx context.Context) error {
	b := &byShape{}
	s.latents = b
	kind := "latents"
	if s.deviates() {
		kind = "posteriors"
	}
	if len(s.shapes) == 1 {
		f, err := s.encodeShape(ctx, fmt.Sprintf("%s-decoder%d.f32", kind, images.DecoderVersion), s.shapes[0], s.set.Len(), func(i int) int { return i })
		b.files = []*fileRecords{f}
		return err
	}
	b.shape, b.place = s.shape, make([]int32, len(s.shape))
	rows := make([][]int, len(s.shapes))
	for row, n := range s.shape {
		if n >= 0 {
			b.place[row] = int32(len(rows[n]))
			rows[n] = append(rows[n], row)
		}
	}
	for n, of := range rows {
		b.files = append(b.files, nil)
		if len(of) == 0 {
			continue
		}
		shape := s.shapes[n]
		f, err := s.encodeShape(ctx, fmt.Sprintf("%s-%dx%d-decoder%d.f32", kind, shape.Width, shape.Height, images.DecoderVersion), shape, len(of), func(i int) int { return of[i] })
		if err != nil {
			return err
		}
		b.files[n] = f
	}
	return nil
}

// encodeShape encodes n rows of a shape into a file. Rows that are left out are encoded as any other.
func (s *loader) encodeShape(ctx context.Context, name string, shape bucket.Size, n int, row func(i int) int) (*fileRecords, error) {
	what := "images"
	if len(s.shapes) > 1 {
		what += " of " + shape.String()
	}
	fill, free := s.encoding(ctx, what, encoder.VAEPart, n, func(enc *encoder.Encoders, first, end int) ([][]float32, error) {
		pictures, failed := make([][]float32, end-first), make([]error, end-first)
		feed.On(s.set.Readers(), end-first, func(i int) { pictures[i], _, failed[i] = s.set.Picture(row(first+i), shape) })
		if err := errors.Join(failed...); err != nil {
			return nil, err
		}
		return s.toLatents(enc, pictures, shape)
	})
	defer free()
	return s.encodedByAll(ctx, name, n, s.recordSize(shape), fill)
}

// encodeCaptions encodes every caption that can be drawn.
func (s *loader) encodeCaptions(ctx context.Context, captions []string) (err error) {
	s.caption = map[string]int{}
	for i, text := range captions {
		s.caption[text] = i
	}
	fill, free := s.encoding(ctx, "captions", encoder.TextPart, len(captions), func(enc *encoder.Encoders, first, end int) (out [][]float32, err error) {
		embeddings, err := enc.Text(captions[first:end])
		for _, v := range embeddings {
			out = append(out, s.ofCaption(v))
		}
		return out, err
	})
	defer free()
	s.embeddings, err = asRecords(s.encodedByAll(ctx, "captions.f32", len(captions), s.captionSize(), fill))
	return err
}

// ofCaption are the conditions that follow from a caption, in the denoiser's order.
func (s *Setup) ofCaption(c family.Conditions) (out []float32) {
	for _, t := range s.Pipeline.Conditions() {
		if t.Caption {
			out = append(out, c[t.Name]...)
		}
	}
	return out
}

// captionSize is how many values they are.
func (s *Setup) captionSize() (n int) {
	for _, t := range s.Pipeline.Conditions() {
		if t.Caption {
			n += t.Size()
		}
	}
	return n
}

// encoding makes chunks of n records: it loads encoders for the first on every device of the process, which then share a chunk,
// and tells how far it is; free gives their memory back. A record is the same from whichever device.
func (s *loader) encoding(ctx context.Context, what, part string, n int, encode func(enc *encoder.Encoders, first, end int) ([][]float32, error)) (chunk func(first, end int) ([][]float32, error), free func()) {
	var group *engine.Group
	var encoders []*encoder.Encoders
	var told func(done, total int)
	free = func() {
		for _, enc := range encoders {
			enc.Free()
		}
	}
	return func(first, end int) ([][]float32, error) {
		if encoders == nil {
			s.log.Info("encoding the data set", what, n, "done before", first)
			told = monitor.LogProgress(s.log, "encoding", what, first)
			var err error
			if group, encoders, err = s.encoders(ctx, min(32, n), part); err != nil {
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
		s.Working("encoding " + what)
		return out, err
	}, free
}
