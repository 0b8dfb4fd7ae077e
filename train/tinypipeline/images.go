package tinypipeline

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"

	"fewstep/data"
)

// Records are 24 training images and 8 held-out ones: a disc or a square of each of 16 colours and places.
func Records() ([]data.Record, error) {
	names := []string{"red", "green", "blue", "yellow"}
	tints := []color.RGBA{{220, 40, 40, 255}, {40, 180, 60, 255}, {50, 70, 220, 255}, {230, 210, 50, 255}}
	places := []image.Point{{5, 5}, {10, 5}, {5, 10}, {10, 10}}
	where := []string{"upper left", "upper right", "lower left", "lower right"}
	var out []data.Record
	for i := range 32 {
		tint, place, shape := i%4, i/4%4, []string{"disc", "square"}[i/16]
		img := image.NewRGBA(image.Rect(0, 0, Resolution, Resolution))
		for y := range Resolution {
			for x := range Resolution {
				dx, dy := x-places[place].X, y-places[place].Y
				c := color.RGBA{255, 255, 255, 255}
				if shape == "disc" && dx*dx+dy*dy <= 14 || shape == "square" && max(dx, -dx) <= 3 && max(dy, -dy) <= 3 {
					c = tints[tint]
				}
				img.SetRGBA(x, y, c)
			}
		}
		var b bytes.Buffer
		if err := png.Encode(&b, img); err != nil {
			return nil, err
		}
		split := "train"
		if i%4 == i/4%4 {
			split = "eval"
		}
		out = append(out, data.Record{
			Key: fmt.Sprintf("%s-%d", shape, i%16), Image: b.Bytes(), Caption: fmt.Sprintf("%s %s, %s", names[tint], shape, where[place]),
			Kind: names[tint] + " " + shape, Coarse: shape, Concept: names[tint] + " " + shape, Split: split, Weight: 1,
			Source: "drawn by code", License: "Apache-2.0",
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
