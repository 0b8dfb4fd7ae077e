package clip

import (
	"encoding/json"
	"errors"
	"fewstep/internal/text"
	"fmt"
	"io/fs"
	"os"
)

// Preprocess is what an image goes through before the image encoder: PIL's bicubic resize in 8 bits, a crop of the
// centre, and (x/255 − Mean)/Std for each channel.
type Preprocess struct {
	Resize    int  // pixels of the shorter side after resizing
	Squash    bool // both sides become Resize, whatever the shape
	Crop      int  // side of the crop, the encoder's image size
	Floor     bool // half of an odd margin is rounded down, as transformers does, and not to the even number
	Mean, Std [3]float64
}

// openAIMean and openAIStd are the training images' of OpenAI's CLIP, which most models have kept.
var (
	openAIMean = [3]float64{0.48145466, 0.4578275, 0.40821073}
	openAIStd  = [3]float64{0.26862954, 0.26130258, 0.27577711}
)

// Size is the size that an image of width×height is resized to before the crop.
func (p Preprocess) Size(width, height int) (int, int) {
	switch {
	case p.Squash:
		return p.Resize, p.Resize
	case width <= height:
		return p.Resize, p.Resize * height / width
	}
	return p.Resize * width / height, p.Resize
}

// pilBicubic is PIL's number for its bicubic filter.
const pilBicubic = 3

// loadPreprocess reads a CLIPImageProcessor's preprocessor_config.json. Without the file it is what OpenAI's models of
// that image size have.
func loadPreprocess(path string, imageSize int) (Preprocess, error) {
	p := Preprocess{Resize: imageSize, Crop: imageSize, Floor: true, Mean: openAIMean, Std: openAIStd}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	c := struct {
		Size      processorSize `json:"size"`
		Crop      processorSize `json:"crop_size"`
		Mean      *[3]float64   `json:"image_mean"`
		Std       *[3]float64   `json:"image_std"`
		Resample  *int          `json:"resample"`
		Rescale   *float64      `json:"rescale_factor"`
		DoResize  *bool         `json:"do_resize"`
		DoCrop    *bool         `json:"do_center_crop"`
		DoRescale *bool         `json:"do_rescale"`
		DoNorm    *bool         `json:"do_normalize"`
	}{}
	if err := text.JSON(raw, &c); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	for name, on := range map[string]*bool{"do_resize": c.DoResize, "do_center_crop": c.DoCrop, "do_rescale": c.DoRescale, "do_normalize": c.DoNorm} {
		if on != nil && !*on {
			return p, fmt.Errorf("%s: %s is false, which is not supported", path, name)
		}
	}
	if c.Resample != nil && *c.Resample != pilBicubic {
		return p, fmt.Errorf("%s: resample is %d, only %d (bicubic) is supported", path, *c.Resample, pilBicubic)
	}
	if c.Rescale != nil && (*c.Rescale < 1/255.0-1e-9 || *c.Rescale > 1/255.0+1e-9) {
		return p, fmt.Errorf("%s: rescale_factor is %g, only 1/255 is supported", path, *c.Rescale)
	}
	if c.Size != 0 {
		p.Resize = int(c.Size)
	}
	if c.Crop != 0 {
		p.Crop = int(c.Crop)
	}
	if c.Mean != nil {
		p.Mean = *c.Mean
	}
	if c.Std != nil {
		p.Std = *c.Std
	}
	if p.Crop != imageSize {
		return p, fmt.Errorf("%s: crop_size is %d, the image encoder's image_size is %d", path, p.Crop, imageSize)
	}
	if err := p.validate(); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func (p Preprocess) validate() error {
	if p.Resize < p.Crop || p.Crop <= 0 {
		return fmt.Errorf("images are resized to %d and cropped to %d: the crop must be positive and fit", p.Resize, p.Crop)
	}
	for _, s := range p.Std {
		if !(s > 0) {
			return fmt.Errorf("the deviations %v must be positive", p.Std)
		}
	}
	return nil
}

// processorSize is a size in any of the spellings of preprocessor_config.json.
type processorSize int

func (s *processorSize) UnmarshalJSON(raw []byte) error {
	var n int
	if json.Unmarshal(raw, &n) == nil {
		*s = processorSize(n)
		return nil
	}
	var size struct {
		ShortestEdge  int `json:"shortest_edge"`
		Height, Width int
	}
	if err := json.Unmarshal(raw, &size); err != nil {
		return err
	}
	switch {
	case size.ShortestEdge > 0:
		*s = processorSize(size.ShortestEdge)
	case size.Height > 0 && size.Height == size.Width:
		*s = processorSize(size.Height)
	default:
		return fmt.Errorf("size %s is neither a number, nor a shortest_edge, nor a square", raw)
	}
	return nil
}
