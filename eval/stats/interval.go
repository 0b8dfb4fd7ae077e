package stats

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sort"
	"sync"
)

// Method is how an interval was made.
type Method string

// Methods of intervals.
const (
	ByBootstrap Method = "percentiles of the bootstrap"
	ByParts     Method = "random parts of the samples"
	ByInfluence Method = "influence of each sample (infinitesimal jackknife)"
)

// Interval is a value with a two-sided interval.
type Interval struct {
	Value, Low, High float64
	Samples          int // on which Value was computed
	Resamples        int
	Method           Method
	// Bias is by how much Value is expected to exceed what infinitely many
	// samples would give; 0 for a mean.
	Bias float64
	// Influences of samples on Value, less their mean, for [Difference]: of all samples, or of 512 that Seed chooses; nil
	// where they are not known.
	Influences []float64
}

// Difference is a − b with an interval for values of the same metric, number of samples and Seed where sample i of both
// shares its prompt and noise. Two models made from the same noise err alike, so their difference is known better than
// either value; an interval that excludes zero tells them apart. It is normal, from the differences of the samples'
// influences; ok is false where those are not known.
//
// Of 200 pairs each of a Gaussian set and a slightly wider copy with noise of its own, nominal 95 % intervals of the
// difference of their Fréchet distances held the expected one in 93 % (64 samples, 4 dimensions), 96 % (128, 32) and 96 %
// (48, 64), of means in 94 to 95 %. They told 199 or 200 of the pairs apart, the values' own intervals none.
func Difference(a, b Interval, level float64) (d Interval, ok bool) {
	if a.Samples != b.Samples || len(a.Influences) == 0 || len(a.Influences) != len(b.Influences) {
		return Interval{}, false
	}
	var squares float64
	for i, v := range a.Influences {
		squares += (v - b.Influences[i]) * (v - b.Influences[i])
	}
	half := normalQuantile((1+level)/2) * math.Sqrt(squares/float64(len(a.Influences))/float64(a.Samples))
	v := a.Value - b.Value
	return Interval{Value: v, Low: v - half, High: v + half, Samples: a.Samples, Method: ByInfluence, Bias: a.Bias - b.Bias}, true
}

// Corrected moves value and interval down by the estimated bias: an interval
// for the distance at infinitely many samples. It is only to be trusted while
// Bias is a small part of Value: with 8 or more times as many samples as
// dimensions it covered as stated, with 4 times as many in 83 % instead of
// 95 %, with as many not at all.
func (iv Interval) Corrected() Interval {
	iv.Value, iv.Low, iv.High, iv.Bias = iv.Value-iv.Bias, iv.Low-iv.Bias, iv.High-iv.Bias, 0
	return iv
}

// Resampling says how an interval is made.
type Resampling struct {
	Resamples int     // default 400
	Level     float64 // default 0.95
	Seed      uint64
}

func (r Resampling) withDefaults() (Resampling, error) {
	if r.Resamples == 0 {
		r.Resamples = 400
	}
	if r.Level == 0 {
		r.Level = 0.95
	}
	if r.Resamples < 20 || !(r.Level > 0 && r.Level < 1) {
		return r, fmt.Errorf("an interval needs 20 or more resamples and a level between 0 and 1, got %d and %g", r.Resamples, r.Level)
	}
	return r, nil
}

// source is the random stream of one resample: independent of the others and
// of which goroutine asks.
func (r Resampling) source(resample int) *rand.Rand {
	var key [32]byte
	copy(key[:], "fewstep/eval/stats")
	binary.LittleEndian.PutUint64(key[16:], r.Seed)
	binary.LittleEndian.PutUint64(key[24:], uint64(resample))
	return rand.New(rand.NewChaCha8(key))
}

// shuffled are n samples in a random order; influences are kept of the first of them.
func (r Resampling) shuffled(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	r.source(0).Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// MeanInterval returns the mean of values (a CLIP score over its images) with
// the percentile interval of the ordinary bootstrap.
func MeanInterval(values []float64, opt Resampling) (Interval, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return Interval{}, err
	}
	n := len(values)
	if n < 2 {
		return Interval{}, fmt.Errorf("an interval needs at least 2 samples, got %d", n)
	}
	var sum float64
	for i, v := range values {
		if !isFinite(v) {
			return Interval{}, fmt.Errorf("sample %d has the value %v", i, v)
		}
		sum += v
	}
	means := make([]float64, opt.Resamples)
	for r := range means {
		rng := opt.source(r)
		var s float64
		for range n {
			s += values[rng.IntN(n)]
		}
		means[r] = s / float64(n)
	}
	sort.Float64s(means)
	iv := Interval{Value: sum / float64(n), Samples: n, Resamples: opt.Resamples, Method: ByBootstrap}
	iv.Low, iv.High = quantile(means, (1-opt.Level)/2), quantile(means, (1+opt.Level)/2)
	for _, i := range opt.shuffled(n)[:min(n, influential)] {
		iv.Influences = append(iv.Influences, values[i]-iv.Value)
	}
	return iv.around(), nil
}

// FrechetInterval returns the Fréchet distance of features, [n][dims], from
// the reference with an interval for the distance *at this number of samples*,
// as papers report it: how far the printed value would move with other
// prompts and noise. The reference is the ruler and stays fixed.
//
// The distance is biased upwards at finite n, by about c/n. An ordinary
// bootstrap adds that bias a second time, because its resamples repeat samples
// and so have too little spread, and its percentile interval may then lie
// wholly above the value it is for. Here each resample is a random half of the
// samples without repetition: the deviations of a half-sample statistic about
// its mean have the variance that the full-sample statistic has (delete-d
// jackknife, Shao and Wu 1989, d = n/2), no sample occurs twice, and the mean
// excess of the halves over the whole is an estimate of the bias itself, which
// is reported apart. The interval is Value plus the quantiles of the
// deviations.
//
// Measured on Gaussian data (300 sets each, nominal 95 %), the interval held
// the expected distance at n in 93 % (n = 64, 4 dimensions), 94 % (256, 8),
// 98 % (128, 32), 97 % (48, 64) and 98 % (256, 64) of the sets, 99 % where the
// distributions are nearly equal: right or a little wide. The bias is
// estimated within 7 % of itself while n is 4 times the dimensions or more,
// and only within 40 % when n is about their number.
//
// Where samples and dimensions are both more than 300, the interval comes from
// the samples' influences instead (see influenceInterval), which cost one
// distance more. On the same data it held the expected distance in 96 %, 95 %,
// 99 %, 98 % and 97 % of the sets; [Interval.Method] says which it was.
func FrechetInterval(features [][]float64, reference *Moments, opt Resampling) (Interval, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return Interval{}, err
	}
	if reference.count < 2 && !reference.given {
		return Interval{}, fmt.Errorf("the reference has %d samples, 2 or more are needed", reference.count)
	}
	n := len(features)
	if n < 4 {
		return Interval{}, fmt.Errorf("an interval for a Fréchet distance needs at least 4 samples, got %d", n)
	}
	if len(features[0]) != reference.dims {
		return Interval{}, fmt.Errorf("features have %d dimensions but the reference has %d", len(features[0]), reference.dims)
	}
	if err := checkFeatures(features, reference.dims); err != nil {
		return Interval{}, err
	}
	ruler, err := newFrechetRuler(reference)
	if err != nil {
		return Interval{}, err
	}
	set := ruler.measure(features)
	var iv Interval
	if min(n, reference.dims) > resampledSize {
		iv, err = set.influenceInterval(n, opt)
	} else {
		iv, err = set.halvesInterval(n, opt)
	}
	iv.Low = math.Max(iv.Low, 0)
	return iv, err
}

// halvesInterval is the interval from random halves of the set's n samples.
func (s *measuredSet) halvesInterval(n int, opt Resampling) (Interval, error) {
	half := n / 2
	whole := make([]int, n)
	for i := range whole {
		whole[i] = i
	}
	value, err := s.distance(whole)
	if err != nil {
		return Interval{}, err
	}
	halves := make([]float64, opt.Resamples)
	failures := make([]error, opt.Resamples)
	var workers sync.WaitGroup
	next := make(chan int)
	for range min(runtime.GOMAXPROCS(0), opt.Resamples) {
		workers.Go(func() {
			for r := range next {
				chosen := append([]int(nil), whole...)
				opt.source(r).Shuffle(n, func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
				chosen = chosen[:half]
				sort.Ints(chosen)
				halves[r], failures[r] = s.distance(chosen)
			}
		})
	}
	for r := range opt.Resamples {
		next <- r
	}
	close(next)
	workers.Wait()
	if err := errors.Join(failures...); err != nil {
		return Interval{}, err
	}
	iv := halfSampleInterval(value, halves, n, half, opt)
	if _, influences, err := s.influences(opt.shuffled(n)[:min(n, influential)]); err == nil { // a degenerate set has none
		iv.Influences = influences
	}
	return iv, nil
}

// halfSampleInterval turns values on m of n samples into an interval for the
// value on n. Var(θm - θn) = σ²(1/m - 1/n), so deviations are scaled by
// sqrt(m/(n-m)) to stand for σ²/n; a bias c/m - c/n by m/(n-m) to stand for c/n.
func halfSampleInterval(value float64, halves []float64, n, m int, opt Resampling) Interval {
	var mean float64
	for _, v := range halves {
		mean += v / float64(len(halves))
	}
	ratio := float64(m) / float64(n-m)
	sort.Float64s(halves)
	scale := math.Sqrt(ratio)
	iv := Interval{Value: value, Samples: n, Resamples: len(halves), Method: ByParts, Bias: (mean - value) * ratio}
	iv.Low = value + scale*(quantile(halves, (1-opt.Level)/2)-mean)
	iv.High = value + scale*(quantile(halves, (1+opt.Level)/2)-mean)
	return iv.around()
}

// around widens an interval that rounding or skew put beside its value.
func (iv Interval) around() Interval {
	iv.Low, iv.High = math.Min(iv.Low, iv.Value), math.Max(iv.High, iv.Value)
	return iv
}

// quantile interpolates linearly between sorted values, as numpy does.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}
