package family

import (
	"fmt"
	"slices"

	"fewstep/model/clip"
	"fewstep/model/nn"
)

// Kind is a kind of model: what its files and its text encoders have beside a denoiser and an autoencoder.
type Kind struct {
	Name      string   // for messages
	Class     string   // of diffusers' pipeline, in model_index.json
	Text      []string // folders of its text encoders
	ZeroEmpty bool     // the empty prompt is zeros where model_index.json does not say

	// Conditions are what a caption becomes, by name, without the batch.
	Conditions func(text []*clip.TextConfig) []Condition

	// Encode runs the text encoders of the given names, each on its token ids [B, T] and end-of-text positions [B], to
	// those conditions.
	Encode func(r nn.Runner, text []*clip.TextConfig, names []string, in []nn.Value) []nn.Value

	// Check says what keeps text encoders from being a model's of this kind.
	Check func(text []*clip.TextConfig) error
}

// Kinds are all that there are, those of more text encoders first: the place to add one.
var Kinds = []*Kind{SDXL, SD}

// Of is the kind of a model with the text encoders that has says it has: the one with the most of which none is missing.
// Without any it is nil.
func Of(has func(folder string) bool) *Kind {
	for _, k := range Kinds {
		if !slices.ContainsFunc(k.Text, func(folder string) bool { return !has(folder) }) {
			return k
		}
	}
	return nil
}

// Fits says where the conditions of captions are not those that a denoiser takes.
func (k *Kind) Fits(d Denoiser, text []*clip.TextConfig) error {
	if err := k.Check(text); err != nil {
		return err
	}
	made := k.Conditions(text)
	for _, c := range d.Conditions(text[0].MaxPositions) {
		if !c.Caption {
			continue
		}
		i := slices.IndexFunc(made, func(m Condition) bool { return m.Name == c.Name })
		switch {
		case i < 0:
			return fmt.Errorf("the UNet takes the condition %s, which the text encoders of %s do not make", c.Name, k.Name)
		case !slices.Equal(made[i].Dims, c.Dims):
			return fmt.Errorf("the text encoders make the condition %s of the shape %v, and the UNet takes %v", c.Name, made[i].Dims, c.Dims)
		}
		made = slices.Delete(made, i, i+1)
	}
	if len(made) > 0 {
		return fmt.Errorf("the text encoders of %s make the condition %s, which the UNet does not take", k.Name, made[0].Name)
	}
	return nil
}
