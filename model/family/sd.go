package family

import (
	"fewstep/model/clip"
	"fewstep/model/nn"
)

// SD is Stable Diffusion 1 and 2: one text encoder, whose last hidden states are taken behind its final norm, and nothing
// else. Version 2's encoder is OpenCLIP's ViT-H without its last layer, so that its last is OpenCLIP's last but one.
var SD = &Kind{
	Name: "Stable Diffusion 1 and 2", Class: "StableDiffusionPipeline", Text: []string{"text_encoder"},
	Conditions: func(text []*clip.TextConfig) []Condition {
		return []Condition{{Name: Text, Dims: []int{text[0].MaxPositions, text[0].HiddenSize}, Caption: true}}
	},
	Encode: func(r nn.Runner, text []*clip.TextConfig, names []string, in []nn.Value) []nn.Value {
		return r.Run(text[0].Tokens(names[0]), in[0])
	},
	Check: func([]*clip.TextConfig) error { return nil },
}
