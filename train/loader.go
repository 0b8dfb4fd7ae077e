package train

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/distill"
	"fewstep/distill/method"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
)

// loader gives the training samples. What the VAE and the text encoders make of them is read from records that were made
// before, or, where those would take more than data.encode_ahead, made while the run trains.
type loader struct {
	*Setup
	set        *data.Set // the rows that are trained on
	decodes    bool      // images are encoded while the run trains
	order      *data.Order
	shapes     []bucket.Size
	sizes      []bucket.Size // of each row's image; nil = not known before it is decoded, or of no meaning
	shape      []int16       // of each row, −1 = left out; nil where sizes are
	latents    records       // of each row: means, and deviations if they are wanted; nil = made while the run trains
	embeddings records       // of each caption: the conditions that follow from it, in the denoiser's order; nil = as latents
	caption    map[string]int
	empty      family.Conditions   // of the empty prompt; nil = zeros
	live       []*encoder.Encoders // of each device, of what is made while the run trains
	compiling  sync.WaitGroup      // what the encoders will need, ahead of its use
	until      context.Context     // ends what is made while the run trains ...
	stop       func()              // ... when an update has failed
	enlarged   atomic.Int64        // samples, where sizes are not known before
	badMutex   sync.Mutex          //
	bad        map[string]struct{} // keys of images that turned out to be none while the run trained
}

// newLoader opens what a run trains on, and encodes what is encoded before. What the leading one of several processes finds out
// about the images, the others read. ordered hears of the loader when its rows are in their order.
func (s *Setup) newLoader(ctx context.Context, ordered chan<- *loader) (_ *loader, err error) {
	if !s.leads() {
		if err := s.hear("sizes of the images", nil); err != nil {
			return nil, err
		}
	}
	l, err := s.openLoader(ctx)
	if err == nil && s.leads() {
		err = s.hear("sizes of the images", nil)
	}
	if err == nil {
		ordered <- l
		err = l.encode(ctx)
	}
	if err == nil {
		err = s.hear("encodings of the data set", nil)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// openLoader puts the rows that are trained on into their order.
func (s *Setup) openLoader(ctx context.Context) (_ *loader, err error) {
	c := s.Config.Data
	l := &loader{Setup: s, set: s.Data, bad: map[string]struct{}{}}
	l.until, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	if l.shapes, err = c.Shapes(); err != nil {
		return l, err
	}
	if l.set.HasSplit("train") {
		if l.set, err = s.Data.Only("train"); err != nil {
			return l, err
		}
	}
	l.decodes = s.Data.EncodedFolder() == "" && l.set.Len() > s.mostAhead()
	if l.set.Files() != nil && (len(l.shapes) > 1 || c.Small == configs.SmallDrop || !l.decodes) {
		if l.sizes, err = l.readSizes(ctx); err != nil {
			return l, fmt.Errorf("reading the images' sizes: %w", err)
		}
		if err = l.sort(); err != nil {
			return l, err
		}
	} else if len(l.shapes) > 1 {
		return l, errors.New("scenes are drawn as squares; set data.buckets.list to none")
	}
	opt := data.OrderOptions{Seed: s.Config.Seed, Fine: c.Captions.Fine, Kind: c.Captions.Kind, Coarse: c.Captions.Coarse}
	if len(l.shapes) > 1 || slices.Contains(l.shape, -1) {
		opt.Shape, opt.Shapes, opt.Batch = l.shape, len(l.shapes), 1
		if len(l.shapes) > 1 {
			opt.Batch = s.Config.Train.Batch
		}
	}
	if l.order, err = l.set.Order(opt); err != nil {
		return l, err
	}
	if n := l.order.Unused(); n > 0 {
		s.log.Warn("images are never drawn: their shape has fewer of them than a micro-batch", "images", n, "of", l.set.Len(), "train.batch", opt.Batch)
	}
	return l, nil
}

// others are the sizes of latents, other than the largest, that a phase's samples have, as they come.
func (l *loader) others(step distill.Step) (sizes []method.Latents) {
	largest, factor := l.Config.Data.Largest(), l.Pipeline.Factor()
	for _, n := range l.order.Shapes(step.First, step.First+step.Samples) {
		if shape := l.shapes[n]; shape != largest {
			sizes = append(sizes, method.Latents{Height: shape.Height / factor, Width: shape.Width / factor})
		}
	}
	return sizes
}

// close gives back what a loader holds; of nil there is none.
func (s *loader) close() error {
	if s == nil {
		return nil
	}
	s.stop()
	s.compiling.Wait()
	for _, enc := range s.live {
		enc.Free()
	}
	var errs []error
	for _, x := range []records{s.latents, s.embeddings} {
		if x != nil {
			errs = append(errs, x.close())
		}
	}
	return errors.Join(errs...)
}

// drawn is a sample before its noise and its encodings.
type drawn struct {
	row     int
	shape   bucket.Size
	sizes   []float32 // micro-conditions
	caption string
	dropped bool      // it has no text
	pixels  []float32 // of its picture, where that is encoded while the run trains
}

// draw gives sample k. Where images were not looked at before, one that cannot be decoded has another in its place, which
// follows from the sample's number.
func (s *loader) draw(k int64) (d drawn, err error) {
	c := s.Config
	d.row, d.shape = s.order.Row(k), s.shapes[s.order.Shape(k)]
	fit := bucket.Fit{Original: d.shape, Target: d.shape}
	if s.sizes != nil {
		if fit, err = bucket.FitTo(s.sizes[d.row], d.shape); err != nil {
			return d, err
		}
	}
	for attempt := 1; s.decodes; attempt++ {
		if d.pixels, fit, err = s.set.Picture(d.row, d.shape); err == nil {
			break
		}
		var bad *data.BadImage
		if !errors.As(err, &bad) {
			return d, fmt.Errorf("sample %d: %w", k, err)
		}
		if err := s.leaveOut(bad); err != nil {
			return d, err
		}
		d.row = s.order.Instead(k, attempt)
	}
	if s.sizes == nil {
		s.tellEnlarged(s.set.Row(d.row).Key, fit)
	}
	if c.Data.Conditions == configs.ConditionsTarget {
		fit = bucket.Fit{Original: d.shape, Target: d.shape}
	}
	ids := fit.TimeIDs()
	d.sizes = ids[:]
	d.caption = s.order.CaptionOf(k, d.row)
	d.dropped = c.Data.Dropout > 0 && distill.Uniform(c.Seed, distill.Dropout, k, 0) < c.Data.Dropout
	return d, nil
}

// leaveOut counts an image that turned out to be none.
func (s *loader) leaveOut(bad *data.BadImage) error {
	s.badMutex.Lock()
	defer s.badMutex.Unlock()
	if _, known := s.bad[bad.Key]; known {
		return nil
	}
	s.bad[bad.Key] = struct{}{}
	s.log.Warn("image left out", "key", bad.Key, "why", bad.Err)
	if n := len(s.bad) + len(s.Data.Bad()); n > s.Config.Data.MaxBad {
		return fmt.Errorf("%d images cannot be used, %d allowed; the last is %w; remove them or allow more (data.max_bad)", n, s.Config.Data.MaxBad, bad)
	}
	return nil
}

// encodeEmpty encodes the empty prompt, for a model that does not take zeros for it.
func (s *loader) encodeEmpty(ctx context.Context) error {
	if s.Pipeline.ZeroEmpty {
		return nil
	}
	e := engine.New(s.backend, dtypes.Float32, nn.Network)
	e.Context = ctx
	enc, err := encoder.Load(s.Pipeline, e, 1, encoder.TextPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	s.empty, err = enc.Empty()
	return err
}

// keys names the rows of samples, for messages.
func (s *loader) keys(first int64, n int) (numbers []int64, keys []string) {
	for i := range n {
		numbers = append(numbers, first+int64(i))
		keys = append(keys, s.set.Row(s.order.Row(first+int64(i))).Key)
	}
	return numbers, keys
}
