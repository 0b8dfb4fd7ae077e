package metric

import (
	"fmt"
	"image"
	"math"

	"fewstep/eval/stats"
)

// Names of the metrics of pixels.
const (
	Sharpness       = "Laplacian energy"
	TeacherPixels   = "Teacher RMS"
	TeacherFeatures = "Teacher similarity"
)

// LaplacianEnergy is the variance of an image's Laplacian, as scipy.ndimage.laplace and numpy.var give it of the luma
// 0.299 R + 0.587 G + 0.114 B in grey levels of 255: the four neighbours less four times the pixel, edges repeated. Blur
// lowers it, noise raises it.
func LaplacianEnergy(img *image.NRGBA) float64 {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	grey := make([]float64, w*h)
	for y := range h {
		row := img.Pix[y*img.Stride:]
		for x := range w {
			grey[y*w+x] = 0.299*float64(row[4*x]) + 0.587*float64(row[4*x+1]) + 0.114*float64(row[4*x+2])
		}
	}
	sum, squares := 0.0, 0.0
	for y := range h {
		up, down := grey[max(y-1, 0)*w:], grey[min(y+1, h-1)*w:]
		row := grey[y*w:]
		for x := range w {
			l := up[x] + down[x] + row[max(x-1, 0)] + row[min(x+1, w-1)] - 4*row[x]
			sum += l
			squares += l * l
		}
	}
	n := float64(w * h)
	return max(squares/n-sum/n*(sum/n), 0)
}

// RelativeSharpness is the mean of images' Laplacian energies as a multiple of that of real images: 1 where they are as
// sharp. The interval is that of the images' mean; the real images are the ruler and stay fixed.
func RelativeSharpness(energies []float64, real float64, opt stats.Resampling) (stats.Interval, error) {
	if !(real > 0) {
		return stats.Interval{}, fmt.Errorf("the real images' Laplacian energy is %g: they show nothing", real)
	}
	ratios := make([]float64, len(energies))
	for i, e := range energies {
		ratios[i] = e / real
	}
	return Mean(ratios, opt)
}

// Mean is the mean of values, with an interval if resamples are asked for.
func Mean(v []float64, opt stats.Resampling) (stats.Interval, error) {
	if opt.Resamples > 0 {
		return stats.MeanInterval(v, opt)
	}
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return stats.Interval{Value: sum / float64(len(v)), Low: math.NaN(), High: math.NaN(), Samples: len(v)}, nil
}

// Thumbnail is an image as bytes [S·S·3], each side divided by the least whole number that leaves at most most pixels:
// what comparing two images of one noise pixel by pixel needs.
func Thumbnail(img *image.NRGBA, most int) []byte {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	k := max(1, (max(w, h)+most-1)/most)
	tw, th := w/k, h/k
	out := make([]byte, 0, tw*th*3)
	for y := range th {
		for x := range tw {
			for c := range 3 {
				sum := 0
				for dy := range k {
					row := img.Pix[(y*k+dy)*img.Stride+4*x*k+c:]
					for dx := range k {
						sum += int(row[4*dx])
					}
				}
				out = append(out, byte((sum+k*k/2)/(k*k)))
			}
		}
	}
	return out
}

// RMS is the root mean square difference of two images of one size, in grey levels of 255.
func RMS(a, b []byte) float64 {
	sum := 0
	for i, v := range a {
		d := int(v) - int(b[i])
		sum += d * d
	}
	return math.Sqrt(float64(sum) / float64(len(a)))
}
