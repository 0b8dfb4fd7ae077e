package configs

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"fewstep/data/bucket"
)

// Lists of buckets, what becomes of small images, what sizes the UNet is told,
// and what latents are made of.
const (
	BucketsNone  = "none"
	BucketsKohya = "kohya"
	BucketsSDXL  = "sdxl"
	BucketsOwn   = "own"

	SmallEnlarge = "enlarge"
	SmallDrop    = "drop"

	ConditionsSample = "sample"
	ConditionsTarget = "target"

	PosteriorMean   = "mean"
	PosteriorSample = "sample"
)

var (
	bucketLists = []string{BucketsNone, BucketsKohya, BucketsSDXL, BucketsOwn}
	smalls      = []string{SmallEnlarge, SmallDrop}
	conditions  = []string{ConditionsSample, ConditionsTarget}
	posteriors  = []string{PosteriorMean, PosteriorSample}
)

// Shapes are the shapes that images are trained in: the square, or those of
// data.buckets.
func (d *Data) Shapes() ([]bucket.Size, error) {
	square := bucket.Size{Width: d.Resolution, Height: d.Resolution}
	switch b := d.Buckets; b.List {
	case BucketsKohya:
		shapes, err := bucket.Resolutions(d.Resolution*d.Resolution, b.Least, b.Most, b.Step)
		if err != nil {
			return nil, fmt.Errorf("data.buckets: %w", err)
		}
		return shapes, nil
	case BucketsSDXL:
		return bucket.SDXL, nil
	case BucketsOwn:
		var shapes []bucket.Size
		for i, text := range b.Own {
			var s bucket.Size
			if n, err := fmt.Sscanf(text, "%dx%d", &s.Width, &s.Height); n != 2 || err != nil || text != fmt.Sprintf("%dx%d", s.Width, s.Height) || s.Width < 1 || s.Height < 1 {
				return nil, fmt.Errorf("data.buckets.own[%d] is %q; write width and height as 832x1216", i, text)
			}
			if slices.Contains(shapes, s) {
				return nil, fmt.Errorf("data.buckets.own[%d] stands twice: %s", i, text)
			}
			shapes = append(shapes, s)
		}
		if len(shapes) == 0 {
			return nil, fmt.Errorf("data.buckets.own is empty; name shapes as 832x1216, or another data.buckets.list")
		}
		return shapes, nil
	}
	return []bucket.Size{square}, nil
}

// Largest is the shape of most pixels, which takes most memory.
func (d *Data) Largest() bucket.Size {
	shapes, err := d.Shapes()
	if err != nil { // Validate says so
		return bucket.Size{Width: d.Resolution, Height: d.Resolution}
	}
	return slices.MaxFunc(shapes, func(a, b bucket.Size) int { return a.Width*a.Height - b.Width*b.Height })
}

func (d *Data) check(v *checker) {
	v.require("data.source", d.Source != "", "is missing; name a parquet file, a WebDataset pattern or a folder of images")
	v.require("data.resolution", d.Resolution >= 8 && d.Resolution%8 == 0, "must be a positive multiple of 8, and is %d", d.Resolution)
	v.oneOf("data.buckets.list", d.Buckets.List, bucketLists)
	v.require("data.buckets.own", d.Buckets.List == BucketsOwn || len(d.Buckets.Own) == 0, "has shapes, and data.buckets.list is %s; set that to own", d.Buckets.List)
	v.require("data.buckets.list", d.Buckets.List != BucketsSDXL || d.Resolution == 1024, "is sdxl, whose shapes are of 1024 × 1024 pixels, and data.resolution is %d", d.Resolution)
	if shapes, err := d.Shapes(); err != nil {
		key, text, _ := strings.Cut(err.Error(), " ")
		v.require(strings.TrimSuffix(key, ":"), false, "%s", text)
	} else {
		for _, s := range shapes {
			v.require("data.buckets", s.Width%8 == 0 && s.Height%8 == 0, "has the shape %v; sides must be multiples of 8", s)
		}
	}
	v.oneOf("data.small", d.Small, smalls)
	v.oneOf("data.conditions", d.Conditions, conditions)
	v.oneOf("data.posterior", d.Posterior, posteriors)
	v.fraction("data.dropout", d.Dropout)
	v.require("data.encode_ahead", d.EncodeAhead >= 0, "must not be negative, and is %g; 0 encodes while the run trains", d.EncodeAhead)
	v.require("data.max_bad", d.MaxBad >= 0, "must not be negative, and is %d; 0 stops at the first bad image", d.MaxBad)
	v.require("data.vae_tile", d.VAETile >= 0, "must not be negative, and is %d; 0 encodes pictures whole", d.VAETile)
	p := d.Captions
	v.require("data.captions", p.Fine >= 0 && p.Kind >= 0 && p.Coarse >= 0 && math.Abs(p.Fine+p.Kind+p.Coarse-1) < 1e-6,
		"must be probabilities that add up to 1, and are fine %g, kind %g, coarse %g", p.Fine, p.Kind, p.Coarse)
}
