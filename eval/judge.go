package eval

import (
	"fmt"
	"image"
	"math"

	"fewstep/eval/report"
	"fewstep/eval/stats"
)

// Judge turns images into numbers by one convention. All rows of a table have the same judge.
//
// Images are of 8 bits, as a PNG file holds them, so that kept images give the same numbers as fresh ones. Features is
// called from one goroutine at a time, beside the drawing of the next images.
type Judge interface {
	// Metrics explains the metrics, in the order of Measure's values.
	Metrics() []report.Metric
	// AnySize says whether Features takes images of any size, so that real images are shown as they are. Others are shown
	// the centre square of each, at the size of the generated ones.
	AnySize() bool
	// Features looks at images, in order.
	Features(images []*image.NRGBA) ([]Features, error)
	// Captions encodes what images are to be compared with.
	Captions(captions []string) (Captions, error)
	// Refer takes the real images that distances are measured from.
	Refer(real []Features) error
	// Measure returns the values of images, of which image i was made for caption i. Without a reference there are no
	// distances among them. teacher are the features of the teacher's images from the same captions and noise, nil where
	// there are none: images may be compared with them. It is called from at most AtOnce goroutines at a time, beside
	// Features of the next images.
	Measure(images []Features, captions Captions, teacher []Features) ([]Value, error)
	// AtOnce is how many calls of Measure there may be at a time.
	AtOnce() int
	// Pack writes what Measure needs of the teacher's images, and Unpack reads it; both give nil where that is nothing.
	Pack(teacher []Features) ([]byte, error)
	Unpack(raw []byte) ([]Features, error)
	// Warnings say why numbers of so many images should not be trusted.
	Warnings(images int) []string
	// Free gives device memory back.
	Free()
}

// Features is what one image gives to its judge, Captions what a list of captions gives. Both belong to the judge.
type (
	Features any
	Captions any
)

// Value is one number; without an interval Low and High are nil.
type Value struct {
	Metric    string   `json:"metric"`
	Value     float64  `json:"value"`
	Low, High *float64 `json:",omitempty"`
	Samples   int      `json:"samples"`

	// Influences of samples on the value, by which it is compared with that of another row (see [stats.Difference]).
	Influences []float32 `json:"influences,omitempty"`
}

func valueOf(name string, iv stats.Interval) (Value, error) {
	if math.IsNaN(iv.Value) || math.IsInf(iv.Value, 0) {
		return Value{}, fmt.Errorf("%s of %d images is %v, which is not a number to report", name, iv.Samples, iv.Value)
	}
	v := Value{Metric: name, Value: iv.Value, Samples: iv.Samples}
	if !math.IsNaN(iv.Low) {
		low, high := min(iv.Low, iv.Value), max(iv.High, iv.Value)
		v.Low, v.High = &low, &high
	}
	for _, x := range iv.Influences {
		v.Influences = append(v.Influences, float32(x))
	}
	return v, nil
}
