package tinypipeline

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"

	"fewstep/data"
	"fewstep/distill"
)

// Records are 224 training images and 32 held-out ones: grainy discs and squares of two sizes in four colours at 16
// places. (The metrics want 192 real images or more that vary in many ways.)
func Records() ([]data.Record, error) {
	names := []string{"red", "green", "blue", "yellow"}
	tints := []color.RGBA{{220, 40, 40, 255}, {40, 180, 60, 255}, {50, 70, 220, 255}, {230, 210, 50, 255}}
	kinds := []string{"small disc", "large disc", "small square", "large square"}
	var out []data.Record
	for i := range 256 {
		tint, kind, place := i%4, i/4%4, i/16
		cx, cy, r := 4+place%4*2, 4+place/4*2, 2+kind%2*2
		img := image.NewRGBA(image.Rect(0, 0, Resolution, Resolution))
		for y := range Resolution {
			for x := range Resolution {
				dx, dy := x-cx, y-cy
				c := color.RGBA{255, 255, 255, 255}
				if kind < 2 && dx*dx+dy*dy <= r*r || kind >= 2 && max(dx, -dx, dy, -dy) <= r {
					c = tints[tint]
				}
				grain := func(v uint8, k int) uint8 {
					return uint8(distill.Uniform(3, distill.Init, int64(i), uint32(3*(y*Resolution+x)+k)) * float64(v))
				}
				img.SetRGBA(x, y, color.RGBA{grain(c.R, 0), grain(c.G, 1), grain(c.B, 2), 255})
			}
		}
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			return nil, err
		}
		split := "train"
		if i*5%8 == 0 {
			split = "eval"
		}
		what := names[tint] + " " + kinds[kind]
		out = append(out, data.Record{
			Key: fmt.Sprintf("image-%d", i), Image: b.Bytes(), Caption: fmt.Sprintf("%s, %s", what, []string{"above", "below"}[place/8]),
			Kind: what, Coarse: kinds[kind], Concept: what, Split: split, Weight: 1, Source: "drawn by code", License: "Apache-2.0",
		})
	}
	return out, nil
}

// Images writes Records to a parquet file.
func Images(path string) error {
	records, err := Records()
	if err != nil {
		return err
	}
	return data.WriteParquet(path, records)
}
