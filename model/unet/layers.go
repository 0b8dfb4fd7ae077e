package unet

import (
	"fmt"

	"fewstep/model/nn"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// conditioning maps network timestep index [B], pooled text [B, P] and micro-conditions [B, 6] to the embedding [B, 4·C0]
// that all resnets see, and the text [B, T, D] to what all transformers see: itself, in the compute dtype. Where nothing is
// added to the time it takes time and text alone.
func (c *Config) conditioning() nn.Block {
	width, added, dim := c.BlockOutChannels[0], c.AdditionTimeDim, 4*c.BlockOutChannels[0]
	return nn.Block{
		Kind: fmt.Sprintf("conditioning(%d,%d)", width, added), Plain: true,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			mlp := func(s *nn.Scope, x *graph.Node) *graph.Node {
				x = graph.ConvertDType(x, s.Compute)
				return s.Linear("linear_2", nn.SiLU(s.Linear("linear_1", x, dim, true)), dim, true)
			}
			t := mlp(s.Sub("time_embedding"), nn.Sinusoid(in[0], width))
			if added == 0 {
				return []*graph.Node{t, graph.ConvertDType(in[1], s.Compute)}
			}
			b := in[0].Shape().Size()
			ids := graph.Reshape(nn.Sinusoid(graph.Reshape(in[2], b*TimeIDs), added), b, TimeIDs*added)
			pooled := graph.ConvertDType(in[1], ids.DType())
			a := mlp(s.Sub("add_embedding"), graph.Concatenate([]*graph.Node{pooled, ids}, 1))
			return []*graph.Node{graph.Add(t, a), graph.ConvertDType(in[3], s.Compute)}
		},
	}
}

// resnet is diffusers' ResnetBlock2D. Inputs: h [B,H,W,C], temb, and for up blocks the skip to concatenate.
func (c *Config) resnet(name string, out int, skip bool) nn.Block {
	groups, eps := c.NormGroups, c.NormEps
	return nn.Block{
		Kind: fmt.Sprintf("resnet(%d,%d,%g,%t)", out, groups, eps, skip), Name: name,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x, temb := in[0], in[1]
			if skip {
				x = graph.Concatenate([]*graph.Node{x, in[2]}, 3)
			}
			h := s.Conv("conv1", nn.SiLU(s.GroupNorm("norm1", x, groups, eps)), out, 3, 1, 1)
			t := s.Linear("time_emb_proj", nn.SiLU(temb), out, true)
			// In f32, as the norm reads it: in bf16 cuDNN would take the sum over, and with it t spread over the image.
			h, t = graph.ConvertDType(h, dtypes.Float32), graph.ConvertDType(t, dtypes.Float32)
			h = graph.Add(h, graph.BroadcastToShape(graph.Reshape(t, h.Shape().Dim(0), 1, 1, out), h.Shape()))
			h = graph.ConvertDType(nn.SiLU(s.GroupNorm("norm2", h, groups, eps)), s.Compute)
			h = s.Conv("conv2", h, out, 3, 1, 1)
			if x.Shape().Dim(3) != out {
				x = s.Conv("conv_shortcut", x, out, 1, 1, 0)
			}
			return []*graph.Node{graph.Add(x, h)}
		},
	}
}

// transformer is diffusers' Transformer2DModel: h [B,H,W,C] attends to itself and to the text [B,T,D].
// At layer granularity its transformer blocks are programs of their own, so that depth 10 costs one compilation.
func (c *Config) transformer(name string, channels, heads, depth int) nn.Block {
	project := func(proj string, norm bool) nn.Block {
		return nn.Block{
			Kind: fmt.Sprintf("transformer_%s(%d,%t,%d)", proj, channels, c.LinearProjection, c.NormGroups),
			Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
				x := in[0]
				d := in[len(in)-1].Shape().Dimensions
				if norm {
					x = graph.Reshape(s.GroupNorm("norm", x, c.NormGroups, 1e-6), d[0], d[1]*d[2], channels)
				}
				if c.LinearProjection {
					x = s.Linear(proj, x, channels, true)
				} else {
					x = s.Conv(proj, graph.Reshape(x, d[0], d[1], d[2], channels), channels, 1, 1, 0)
					x = graph.Reshape(x, d[0], d[1]*d[2], channels)
				}
				if !norm {
					x = graph.Add(graph.Reshape(x, d...), in[1])
				}
				return []*graph.Node{x}
			},
		}
	}
	return nn.Block{
		Kind: fmt.Sprintf("transformer(%d,%d,%d,%s)", channels, heads, depth, c.layerSignature()),
		Name: name, Level: nn.Stage,
		Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
			h := nn.One(r, project("proj_in", true), in[0])
			for k := range depth {
				h = nn.One(r, transformerBlock(fmt.Sprintf("transformer_blocks.%d", k), channels, heads, c.UpcastAttention), h, in[1])
			}
			return r.Run(project("proj_out", false), h, in[0])
		},
	}
}

// transformerBlock is diffusers' BasicTransformerBlock on tokens [B,N,C] and text [B,T,D]. upcast makes the products of
// queries and keys f32.
func transformerBlock(name string, channels, heads int, upcast bool) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("transformer_block(%d,%d,%t)", channels, heads, upcast), Name: name,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x, text := in[0], in[1]
			attend := func(s *nn.Scope, x, kv *graph.Node) *graph.Node {
				q := s.Linear("to_q", x, channels, false)
				k := s.Linear("to_k", kv, channels, false)
				v := s.Linear("to_v", kv, channels, false)
				if upcast {
					q, k = graph.ConvertDType(q, dtypes.Float32), graph.ConvertDType(k, dtypes.Float32)
				}
				return s.Linear("to_out.0", nn.Attention(q, k, v, heads, nil), channels, true)
			}
			n := s.LayerNorm("norm1", x, 1e-5)
			x = graph.Add(x, attend(s.Sub("attn1"), n, n))
			x = graph.Add(x, attend(s.Sub("attn2"), s.LayerNorm("norm2", x, 1e-5), text))
			f := s.Linear("ff.net.0.proj", s.LayerNorm("norm3", x, 1e-5), 8*channels, true)
			halves := graph.Split(f, -1, 2)
			f = s.Linear("ff.net.2", graph.Mul(halves[0], nn.GELU(halves[1])), channels, true)
			return []*graph.Node{graph.Add(x, f)}
		},
	}
}

// conv is a convolution of its own: conv_in, and the down- and upsamplers.
func conv(name string, out, stride int, up, plain bool) nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("conv(%d,%d,%t)", out, stride, up), Name: name, Plain: plain,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			x := graph.ConvertDType(in[0], s.Compute)
			if up {
				x = nn.Upsample2(x)
			}
			return []*graph.Node{s.Conv("conv", x, out, 3, stride, 1)}
		},
	}
}

// convIn and convOut have their parameters directly at the network's root.
func (c *Config) convIn() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("conv_in(%d)", c.BlockOutChannels[0]), Plain: true,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			return []*graph.Node{s.Conv("conv_in", graph.ConvertDType(in[0], s.Compute), c.BlockOutChannels[0], 3, 1, 1)}
		},
	}
}

// convOut computes in f32: a step multiplies the rounding of its output, by up to 14.6 where x0 follows from ε at T, and
// only the student's single call would carry that to the discriminator.
func (c *Config) convOut() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("conv_out(%d,%d,%g)", c.OutChannels, c.NormGroups, c.NormEps), Plain: true,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
			h := s.InF32().Conv("conv_out", c.normOut(s, in[0]), c.OutChannels, outKernel, 1, outPad)
			return []*graph.Node{graph.ConvertDType(h, in[1].DType())}
		},
	}
}

// outKernel and outPad are conv_out's.
const outKernel, outPad = 3, 1

// lastFeatures is what conv_out convolves.
func (c *Config) lastFeatures() nn.Block {
	return nn.Block{
		Kind: fmt.Sprintf("last_features(%d,%g)", c.NormGroups, c.NormEps), Plain: true,
		Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node { return []*graph.Node{c.normOut(s, in[0])} },
	}
}

func (c *Config) normOut(s *nn.Scope, h *graph.Node) *graph.Node {
	s = s.InF32()
	return nn.SiLU(s.GroupNorm("conv_norm_out", graph.ConvertDType(h, s.Compute), c.NormGroups, c.NormEps))
}

// Patches are conv_out's inputs, as [Config.Features] gives them, as rows [B·H·W, 9·C]; see [nn.Patches].
func (c *Config) Patches(features *graph.Node) *graph.Node {
	return nn.Patches(features, outKernel, outPad)
}

// Kernel turns weights by patch [9·C][out], the order of Patches, into conv_out's kernel [out, C, 3, 3].
func (c *Config) Kernel(byPatch [][]float64) []float32 {
	const taps = outKernel * outKernel
	channels, out := len(byPatch)/taps, len(byPatch[0])
	kernel := make([]float32, out*channels*taps)
	for p, row := range byPatch {
		tap, channel := p/channels, p%channels
		for o, w := range row {
			kernel[(o*channels+channel)*taps+tap] = float32(w)
		}
	}
	return kernel
}

// LastLayer names conv_out's parameters.
func (c *Config) LastLayer() (weight, bias string) { return "conv_out.weight", "conv_out.bias" }
