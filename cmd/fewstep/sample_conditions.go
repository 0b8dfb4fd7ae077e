package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"fewstep/model/pipeline"
)

// conditionFlags are SDXL's micro-conditions on the command line: "" = those of an uncropped picture of its own size.
type conditionFlags struct {
	original, crop, target                         string
	negativeOriginal, negativeCrop, negativeTarget string
}

func (c *conditionFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.original, "original-size", "", "micro-condition: WIDTHxHEIGHT of the original picture; empty = the picture's own")
	f.StringVar(&c.crop, "crop", "0,0", "micro-condition: LEFT,TOP of the crop")
	f.StringVar(&c.target, "target-size", "", "micro-condition: WIDTHxHEIGHT after scaling; empty = the picture's own")
	f.StringVar(&c.negativeOriginal, "negative-original-size", "", "what guidance leads away from; empty = --original-size")
	f.StringVar(&c.negativeCrop, "negative-crop", "", "what guidance leads away from; empty = --crop")
	f.StringVar(&c.negativeTarget, "negative-target-size", "", "what guidance leads away from; empty = --target-size")
}

// given says whether any is set.
func (c *conditionFlags) given() bool {
	return c.original+c.target+c.negativeOriginal+c.negativeCrop+c.negativeTarget != "" || c.crop != "0,0"
}

// timeIDs are the UNet's micro-conditions for a picture of a size, and those beside the negative prompt.
func (c *conditionFlags) timeIDs(size pipeline.Size) (with, without []float32, err error) {
	m := pipeline.MicroConditions{Original: size, Target: size}
	read := func(original, crop, target, prefix string) ([]float32, error) {
		for _, f := range []struct {
			flag, text, format string
			first, second      *int
		}{
			{"original-size", original, "%dx%d", &m.Original.Width, &m.Original.Height},
			{"crop", crop, "%d,%d", &m.CropLeft, &m.CropTop},
			{"target-size", target, "%dx%d", &m.Target.Width, &m.Target.Height},
		} {
			if f.text == "" {
				continue
			}
			var first, second int
			if n, err := fmt.Sscanf(f.text, f.format, &first, &second); err != nil || n != 2 || fmt.Sprintf(f.format, first, second) != f.text || first < 0 || second < 0 {
				form := map[string]string{"%dx%d": "WIDTHxHEIGHT", "%d,%d": "LEFT,TOP"}[f.format]
				return nil, withHint(usageErrorf("--%s%s is %q", prefix, f.flag, f.text), "write it as %s in pixels", form)
			}
			*f.first, *f.second = first, second
		}
		return m.TimeIDs(), nil
	}
	if with, err = read(c.original, c.crop, c.target, ""); err != nil {
		return nil, nil, err
	}
	without, err = read(c.negativeOriginal, c.negativeCrop, c.negativeTarget, "negative-")
	return with, without, err
}
