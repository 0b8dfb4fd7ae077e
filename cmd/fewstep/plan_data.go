package main

import (
	"context"
	"fmt"
	"os"

	"github.com/gomlx/compute"

	"fewstep/configs"
	"fewstep/data"
	"fewstep/model/nn"
	"fewstep/model/pipeline"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

// encodingNotes tells what a run encodes before it trains and what while it does, for each image and caption that takes so
// many bytes. Where the data set and the model are on the disk it tells which of both is so, and what the encoders take.
func encodingNotes(b compute.Backend, c *configs.Recipe, image, caption int64) []string {
	ahead := int64(c.Data.EncodeAhead * (1 << 30))
	images, captions := ahead/image, ahead/caption
	notes := []string{fmt.Sprintf("encodings: those of up to %d images (%s each) and %d captions (%s each) are made before training (data.encode_ahead: %g GiB); of a larger data set they are made while it trains",
		images, bytesText(image), captions, bytesText(caption), c.Data.EncodeAhead)}
	if _, err := os.Stat(c.SourcePath()); err != nil {
		return notes
	}
	set, err := data.Open(context.Background(), c.SourcePath(), data.Options{Unchecked: true, MaxBad: 1 << 30})
	if err != nil || set.EncodedFolder() != "" {
		return notes
	}
	defer set.Close()
	rows, texts := int64(set.Len()), int64(set.Len())
	if rows <= 4*captions {
		texts = int64(len(set.Captions()))
	}
	when := func(n, most int64) string {
		if n > most {
			return "while it trains"
		}
		return "before training"
	}
	notes = append(notes, fmt.Sprintf("data: %d images, encoded %s; captions, encoded %s", rows, when(rows, images), when(texts, captions)))
	p, err := pipeline.Open(c.ModelPath())
	if err != nil || rows <= images && texts <= captions {
		return notes
	}
	var vae, text int64
	count := func(to *int64, block nn.Block, in ...shapes.Shape) {
		specs, err := nn.Trace(b, block, in...)
		for i := 0; i < len(specs) && err == nil; i++ {
			*to += 4 * int64(shapes.Make(dtypes.Float32, specs[i].Dims...).Size())
		}
	}
	if rows > images {
		side := 8 * p.Factor()
		count(&vae, p.VAE.Autoencoder(""), shapes.Make(dtypes.Float32, 1, side, side, 3), shapes.Make(dtypes.Float32, 1, 8, 8, p.VAE.LatentChannels))
		notes = append(notes, fmt.Sprintf("the VAE takes %s of device memory while the run trains, and its activations; neither is among the phases' figures", bytesText(vae)))
	}
	if texts > captions {
		for _, t := range p.Text {
			count(&text, t.Text(""), p.TextShapes(1)...)
		}
		notes = append(notes, fmt.Sprintf("the text encoders take %s of device memory while the run trains, which is not among the phases' figures", bytesText(text)))
	}
	return notes
}
