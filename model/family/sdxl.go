package family

import (
	"fmt"

	"fewstep/model/clip"
	"fewstep/model/nn"

	"github.com/gomlx/gomlx/core/graph"
)

// SDXL has two text encoders, whose last but one hidden states stand side by side, and the second's projection of the whole
// caption; and it is told sizes.
var SDXL = &Kind{
	Name: "SDXL", Class: "StableDiffusionXLPipeline", Text: []string{"text_encoder", "text_encoder_2"}, ZeroEmpty: true,
	Conditions: func(text []*clip.TextConfig) []Condition {
		return []Condition{
			{Name: Text, Dims: []int{text[0].MaxPositions, text[0].HiddenSize + text[1].HiddenSize}, Caption: true},
			{Name: Pooled, Dims: []int{text[1].ProjectionDim}, Caption: true},
		}
	},
	Encode: func(r nn.Runner, text []*clip.TextConfig, names []string, in []nn.Value) []nn.Value {
		one := r.Run(text[0].Text(names[0]), in[0], in[1])
		two := r.Run(text[1].Text(names[1]), in[2], in[3])
		both := nn.One(r, nn.Block{Kind: "beside_text", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{graph.Concatenate(in, 2)}
		}}, one[clip.TextHidden], two[clip.TextHidden])
		return []nn.Value{both, two[clip.TextProjected]}
	},
	Check: func(text []*clip.TextConfig) error {
		switch {
		case text[0].MaxPositions != text[1].MaxPositions:
			return fmt.Errorf("text_encoder takes %d tokens and text_encoder_2 %d: their outputs do not fit together", text[0].MaxPositions, text[1].MaxPositions)
		case !text[1].Projected:
			return fmt.Errorf("text_encoder_2 has no text projection, SDXL's family needs one")
		}
		return nil
	},
}
