package metric

import (
	"fmt"
	"slices"
	"strings"

	"fewstep/data/images"
	"fewstep/model/inception"
)

// Standard is one way of measuring that papers share: what is done to images before the feature network, and how an
// image is compared with its caption. Generated and real images are treated alike.
//
//	name        | FID-Whole                            | FID-Patch              | CLIP score
//	lightning   | clean-fid's resize to 299            | 299 centre crop        | ViT-L/14, cosine × 100, clamped at 0
//	dmd2        | centre square, Lanczos 512, the same | 299 centre crop        | ViT-g-14, "A photo depicts ", cosine
//	pytorch-fid | bilinear 299 without antialias       | –                      | –
//	tf1         | TensorFlow 1's bilinear 299          | –                      | –
//	mini        | clean-fid's resize to 299            | central quarter to 299 | any CLIP, cosine × 100, clamped at 0
//
// The FID network sees (x − 128)/128, with pytorch-fid 2x/255 − 1; another network what it was trained on. Real images of less than 299
// pixels a side have no crop; they are taken whole, as by DMD2's code. mini-clip is another ruler, see [Ruler].
type Standard struct {
	Name  string
	Whole Treatment
	Patch *Treatment // nil: none
	Unit  bool       // 2x/255 − 1 in place of (x − 128)/128
	Score *Scoring   // nil: none
	Note  string     // one sentence about where it comes from
}

// Treatment makes an image of [inception.Side] pixels a side. The steps are in order; zero ones are left out.
type Treatment struct {
	Square  bool // centre square
	Crop    int  // centre crop of that side
	Quarter bool // the central quarter of the area
	Lanczos int  // PIL's Lanczos resize to that side, in 8 bits
	Resize  Resize
}

// Resize is the last step of a treatment.
type Resize int

// Resizes to the network's size.
const (
	Clean Resize = iota // clean-fid's
	Torch               // PyTorch's bilinear
	TF1                 // TensorFlow 1's bilinear
)

// Scoring is how an image is compared with its caption.
type Scoring struct {
	Model   string // the CLIP that the convention names, "" = any
	SHA256  string // of its weights file, "" where none is published
	Prefix  string // before each caption
	Lanczos int    // the centre square is resized to that side before the model's own preprocessing, 0 = not
	Scale   float64
	Clamp   bool // cosines below 0 count as 0
	Fetch   string
}

// vitL14 is OpenAI's ViT-L/14 in transformers' layout.
const (
	vitL14       = "ViT-L/14"
	vitL14SHA256 = "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb" // model.safetensors, 1,710,540,580 bytes
	vitL14Fetch  = "hf download openai/clip-vit-large-patch14 config.json preprocessor_config.json tokenizer_config.json special_tokens_map.json vocab.json merges.txt model.safetensors --local-dir clip-vit-large-patch14"
	vitg14Fetch  = "hf download laion/CLIP-ViT-g-14-laion2B-s12B-b42K open_clip_config.json open_clip_model.safetensors tokenizer_config.json special_tokens_map.json vocab.json merges.txt --local-dir clip-vit-g-14"
)

var standards = []Standard{
	{Name: "lightning", Patch: &Treatment{Crop: inception.Side},
		Score: &Scoring{Model: vitL14, SHA256: vitL14SHA256, Scale: 100, Clamp: true, Fetch: vitL14Fetch},
		Note:  "SDXL-Lightning's two distances, whole images by clean-fid's rule."},
	{Name: "dmd2", Whole: Treatment{Square: true, Lanczos: 512}, Patch: &Treatment{Crop: inception.Side},
		Score: &Scoring{Model: "ViT-g-14", Prefix: "A photo depicts ", Lanczos: 256, Scale: 1, Fetch: vitg14Fetch},
		Note:  "As DMD2's published evaluation code."},
	{Name: "pytorch-fid", Whole: Treatment{Resize: Torch}, Unit: true,
		Note: "As pytorch-fid reads a folder."},
	{Name: "tf1", Whole: Treatment{Resize: TF1},
		Note: "As the original TensorFlow graph and torch-fidelity."},
	{Name: "mini", Patch: &Treatment{Quarter: true},
		Score: &Scoring{Scale: 100, Clamp: true},
		Note:  "For images smaller than 299 pixels, which have no patch of that size."},
}

// Standards are all conventions with Inception features, the default first.
func Standards() []Standard { return slices.Clone(standards) }

// FindStandard returns a convention by its name.
func FindStandard(name string) (Standard, error) {
	var names []string
	for _, c := range standards {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Standard{}, fmt.Errorf("there is no convention %q, only %s and %s", name, strings.Join(names, ", "), Convention)
}

// apply treats an image; ok is false where the image is too small for the crop and was taken whole.
func (t Treatment) apply(m images.RGB) (out images.Float, ok bool, err error) {
	ok = true
	if t.Square {
		m = m.CenterSquare()
	}
	if t.Crop > 0 {
		if m.Width < t.Crop || m.Height < t.Crop {
			ok = false
		} else if m, err = m.CenterCrop(t.Crop, t.Crop); err != nil {
			return out, false, err
		}
	}
	if t.Quarter {
		if m, err = m.CenterCrop(max(m.Width/2, 1), max(m.Height/2, 1)); err != nil {
			return out, false, err
		}
	}
	if t.Lanczos > 0 {
		m = m.Resize(t.Lanczos, t.Lanczos, images.Lanczos)
	}
	const side = inception.Side
	switch t.Resize {
	case Torch:
		return m.BilinearTorch(side, side), ok, nil
	case TF1:
		return m.BilinearTF1(side, side), ok, nil
	}
	return m.ResizeFloat(side, side, images.Bicubic), ok, nil
}

// scaled turns grey levels into what a network takes, in place.
func (c Standard) scaled(levels []float32, network inception.Release) {
	for i, v := range levels {
		switch {
		case network.Unit:
			levels[i] = v / 255
		case c.Unit:
			levels[i] = 2*(v/255) - 1
		default:
			levels[i] = (v - 128) / 128
		}
	}
}

// String describes a treatment in words.
func (t Treatment) String() string {
	var steps []string
	if t.Square {
		steps = append(steps, "centre square")
	}
	if t.Crop > 0 {
		steps = append(steps, fmt.Sprintf("%d-pixel centre crop", t.Crop))
	}
	if t.Quarter {
		steps = append(steps, "central quarter of the area")
	}
	if t.Lanczos > 0 {
		steps = append(steps, fmt.Sprintf("Lanczos to %d", t.Lanczos))
	}
	switch {
	case t.Resize == Torch:
		steps = append(steps, "PyTorch's bilinear to 299 without antialias")
	case t.Resize == TF1:
		steps = append(steps, "TensorFlow 1's bilinear to 299")
	case t.Crop != inception.Side:
		steps = append(steps, "clean-fid's bicubic to 299")
	}
	if len(steps) == 1 && t.Crop == 0 && !t.Quarter {
		return "whole images, " + steps[0]
	}
	return strings.Join(steps, ", ")
}
