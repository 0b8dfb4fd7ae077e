// Package discriminator is the adversarial critic of SDXL-Lightning (3.3): the UNet's own encoder and mid block as
// backbone, every weight of it trained, and a small convolutional head that ends in one logit per sample. To save
// memory, and not in the paper, adapters over a frozen backbone can be trained in place of its weights.
package discriminator

import (
	"fmt"
	"strings"

	"fewstep/model/family"
	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Config is a discriminator over a UNet's encoder.
type Config struct {
	Denoiser family.Critic
	Channels int // of the head; 0 = those of the features that it takes
	Groups   int // of the head's group norms; 0 = the UNet's

	// Side is that of the square latents that the heads are made for, where they take others, too; 0 = each is made for what
	// it takes.
	Side int

	Levels bool // a head on the features of every level, not of the mid block alone, which is the paper's

	LoRA *nn.LoRA // adapters on the backbone, where the UNet has them, in place of its weights; nil = every weight
}

// Form says what the discriminator looks at.
type Form string

// The two forms of (22) and (23).
const (
	Conditional   Form = "conditional"   // x_t' and x_t, features side by side
	Unconditional Form = "unconditional" // x_t' alone
)

// HeadName is the scope of the head's parameters beside the backbone's diffusers keys.
const HeadName = "head"

// Backbone maps the UNet's inputs to what each of Heads takes, below name: the mid block's features, with Levels
// those of the down blocks after them.
func (c *Config) Backbone(name string) nn.Block {
	b := c.Denoiser.Encoder(name)
	if c.Levels {
		b = c.Denoiser.EncoderLevels(name)
	}
	b.LoRA = c.LoRA
	return b
}

// Heads are the discriminator's heads, the mid block's first; the logit is the mean of theirs.
func (c *Config) Heads(name string) []nn.Block {
	heads := []nn.Block{c.Head(name)}
	if c.Levels {
		widths := c.Denoiser.Widths()
		for i, width := range widths {
			heads = append(heads, c.head(nn.Join(name, fmt.Sprintf("%s.levels.%d", HeadName, i)), width, c.Side>>min(i+1, len(widths)-1)))
		}
	}
	return heads
}

// Head maps mid-block features [B, H, W, C or 2C] to logits [B] in f32: conv 3×3, then conv 4×4 stride 2 while the
// side is above 4, then a valid 4×4 convolution (an average pool where the side is not 4), each with group norm and
// SiLU, then a linear layer. With Side the number of layers is that of its square, and what is narrower than a kernel is
// widened by zeros.
func (c *Config) Head(name string) nn.Block {
	widths := c.Denoiser.Widths()
	return c.head(nn.Join(name, HeadName), widths[len(widths)-1], c.Side>>(len(widths)-1))
}

// head takes features of so many channels and, if that is not 0, of this side where latents are squares.
func (c *Config) head(name string, width, side int) nn.Block {
	channels, groups := c.Channels, c.Groups
	if channels == 0 {
		channels = width
	}
	if groups == 0 {
		groups = c.Denoiser.Groups()
	}
	kind := fmt.Sprintf("discriminator_head(%d,%d)", channels, groups)
	if side > 0 {
		kind = fmt.Sprintf("discriminator_head(%d,%d,%d)", channels, groups, side)
	}
	return nn.Block{
		Kind: kind, Name: name, Level: nn.Stage,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			layer := 0
			block := func(x *graph.Node, kernel, stride, pad int) *graph.Node {
				x = atLeast(x, kernel-2*pad)
				x = s.Conv(fmt.Sprintf("convs.%d", layer), x, channels, kernel, stride, pad)
				x = nn.SiLU(s.GroupNorm(fmt.Sprintf("norms.%d", layer), x, groups, 1e-5))
				layer++
				return x
			}
			x := block(in[0], 3, 1, 1)
			high, wide := x.Shape().Dim(1), x.Shape().Dim(2)
			if side > 0 {
				high, wide = side, side
			}
			for ; high > 4 && wide > 4; high, wide = high/2, wide/2 {
				x = block(x, 4, 2, 1)
			}
			if high == 4 && wide == 4 {
				x = block(x, 4, 1, 0)
			}
			x = graph.ReduceMean(x, 1, 2)
			return []*graph.Node{graph.ConvertDType(graph.Reshape(s.Linear("out", x, 1, true), -1), dtypes.Float32)}
		},
	}
}

// atLeast widens a map [B, H, W, C] by zeros, below and to the right, to a side. (GoMLX's Pad has no gradient.)
func atLeast(x *graph.Node, side int) *graph.Node {
	for axis := 1; axis <= 2; axis++ {
		if lacks := side - x.Shape().Dim(axis); lacks > 0 {
			zeros := x.Shape().Clone()
			zeros.Dimensions[axis] = lacks
			x = graph.Concatenate([]*graph.Node{x, graph.Zeros(x.Graph(), zeros)}, axis)
		}
	}
	return x
}

// Network is backbone and head in one block, for listing parameters and for counting. Inputs are the UNet's.
func (c *Config) Network(name string, form Form) nn.Block {
	return nn.Block{
		Kind: "discriminator(" + string(form) + ")", Name: name, Level: nn.Network,
		Compose: func(r nn.Runner, in []nn.Value) (logits []nn.Value) {
			features := r.Run(c.Backbone(""), in...)
			for i, head := range c.Heads("") {
				h := features[i]
				if form == Conditional {
					h = nn.One(r, Beside(), h, h)
				}
				logits = append(logits, r.Run(head, h)...)
			}
			return logits
		},
	}
}

// Beside concatenates two feature maps along their channels, x_t' first (22).
func Beside() nn.Block {
	return nn.Block{Kind: "beside", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{graph.Concatenate(in, 3)}
	}}
}

// IsHead says whether a parameter belongs to the head rather than to the backbone.
func IsHead(name string) bool { return strings.HasPrefix(name, HeadName+".") }

// Trains says whether a parameter is trained: all are, or, with adapters, those and the head.
func (c *Config) Trains(name string) bool { return c.LoRA == nil || IsHead(name) || nn.IsLoRA(name) }
