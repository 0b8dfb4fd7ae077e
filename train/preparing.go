package train

import (
	"context"
	"fmt"

	"fewstep/configs"
	"fewstep/data/bucket"
	"fewstep/data/encoded"
	"fewstep/engine/encoder"
	"fewstep/model/family"
	"fewstep/model/pipeline"
)

// Preparing returns the settings for encoding a recipe's data with a pipeline, except for folders, batches and ranks, which the
// caller sets. encoders is called before each batch, and returns the encoders of a part of the pipeline (see encoder.Load).
func Preparing(ctx context.Context, p *pipeline.Pipeline, d configs.Data, encoders func(part string) (*encoder.Encoders, error)) (s encoded.Settings, err error) {
	if s.Shapes, err = d.Shapes(); err != nil {
		return s, err
	}
	for _, shape := range s.Shapes {
		if shape.Width%p.Factor() != 0 || shape.Height%p.Factor() != 0 {
			return s, fmt.Errorf("images of %v: the VAE takes multiples of %d pixels", shape, p.Factor())
		}
	}
	s.Deviations, s.Tile, s.MaxBad = d.Posterior == configs.PosteriorSample, d.VAETile, d.MaxBad
	s.Factor, s.Channels = p.Factor(), p.VAE.LatentChannels
	if s.VAE, err = weightsHash(ctx, p, vaeComponents...); err != nil {
		return s, err
	}
	if s.Text, err = weightsHash(ctx, p, p.Kind.Text...); err != nil {
		return s, err
	}
	for _, c := range p.Conditions() {
		switch c.Name {
		case family.Text:
			s.TextShape = c.Dims
		case family.Pooled:
			s.PooledSize = c.Size()
		}
	}
	s.Images = func(images [][]float32, shape bucket.Size) (mean, deviations [][]float32, err error) {
		enc, err := encoders(encoder.VAEPart)
		if err != nil {
			return nil, nil, err
		}
		enc.Tile = d.VAETile
		if s.Deviations {
			return enc.Posterior(images, pipeline.Size(shape))
		}
		mean, err = enc.Latents(images, pipeline.Size(shape))
		return mean, nil, err
	}
	s.Texts = func(captions []string) (text, pooled [][]float32, err error) {
		enc, err := encoders(encoder.TextPart)
		if err != nil {
			return nil, nil, err
		}
		out, err := enc.Text(captions)
		for _, v := range out {
			text, pooled = append(text, v[family.Text]), append(pooled, v[family.Pooled])
		}
		return text, pooled, err
	}
	return s, nil
}
