package base

import (
	"context"
	"maps"
	"math"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// trainUNet minimises ‖ε̂ − ε‖², min-SNR weighted, at uniform timesteps, with caption dropout.
func (t *Trainer) trainUNet(ctx context.Context) error {
	specs, err := t.p.UNetSpecs(t.Backend, nil)
	if err != nil {
		return err
	}
	latents, err := t.encodeAll(ctx)
	if err != nil {
		return err
	}
	e := engine.New(t.Backend, dtypes.Float32, nn.Network)
	enc, err := encoder.Load(t.p, e, 64, encoder.TextPart)
	if err != nil {
		return err
	}
	captions := t.train.Captions()
	index := captionIndex(captions)
	embeddings, err := enc.Text(captions)
	var empty family.Conditions
	if err == nil {
		empty, err = enc.Empty()
	}
	enc.Free()
	if err != nil {
		return err
	}
	c := &t.Config.UNet
	in := t.p.UNetInputs(c.Batch, pipeline.Square(t.Config.Resolution))
	loss := nn.Block{Kind: "epsilon_loss", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		d := graph.Square(graph.ConvertDType(graph.Sub(in[0], in[1]), dtypes.Float32))
		return []*graph.Node{graph.ReduceAllMean(nn.Scale(d, in[2]))}
	}}
	f := engine.Function{Key: "unet_train", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		u := nn.One(r, t.p.UNet.Network("unet", nil), in[:len(in)-2]...)
		return r.Run(loss, u, in[len(in)-2], in[len(in)-1])
	}}
	start := t.fresh(specs)
	if c.Resume {
		if start, err = pipeline.Read(t.p.Dir, "unet"); err != nil {
			return err
		}
	} else {
		for _, name := range []string{"conv_out.weight", "conv_out.bias"} { // predict zero at first
			clear(start[name])
		}
	}
	seed := t.Config.Seed
	size, told := in[family.Sample].Size()/c.Batch, t.p.Conditions()
	ids := pipeline.TimeIDs(pipeline.Square(t.Config.Resolution))
	v, err := t.loop(ctx, "unet", &c.Part, f, specs, start, func(first int64) (batch, error) {
		n := c.Batch
		x, noise, ts := make([]float32, n*size), make([]float32, n*size), make([]float32, n)
		conditions, w := make([]family.Conditions, n), make([]float32, n)
		offset := make([]float32, t.p.UNet.Channels())
		for i := range n {
			k := first + int64(i)
			eps := noise[i*size : (i+1)*size]
			distill.Normal(eps, seed, distill.Noise, k)
			step := 1 + distill.Pick(t.p.Schedule.T(), seed, distill.Timestep, k, 0)
			a, b := t.p.Schedule.NoisyCoefficients(step)
			if c.NoiseOffset > 0 {
				distill.Normal(offset, seed, distill.NoiseOffset, k)
				for j := range eps {
					eps[j] += float32(c.NoiseOffset) * offset[j%len(offset)]
				}
			}
			for j, z := range latents[t.order.Row(k)] {
				x[i*size+j] = float32(a)*z + float32(b)*eps[j]
			}
			ts[i] = float32(t.p.Schedule.NetworkIndex(step))
			conditions[i] = family.Conditions{}
			maps.Copy(conditions[i], empty)
			if distill.Uniform(seed, distill.Dropout, k, 0) >= c.Dropout {
				maps.Copy(conditions[i], embeddings[index[t.order.Caption(k)]])
			}
			conditions[i][family.Sizes] = ids
			w[i] = 1
			if c.MinSNR > 0 {
				snr := a * a / (b * b)
				w[i] = float32(math.Min(snr, c.MinSNR) / snr)
			}
		}
		out := batch{{x, in[family.Sample].Dimensions}, {ts, in[family.Time].Dimensions}}
		batched, err := family.Batch(told, conditions)
		for i, v := range batched {
			out = append(out, tensor{v, in[family.Given+i].Dimensions})
		}
		return append(out, tensor{noise, in[family.Sample].Dimensions}, tensor{w, []int{n}}), err
	})
	if err != nil {
		return err
	}
	return pipeline.Write(t.p.Dir, "unet", specs, v, weights.F16, map[string]string{"format": "pt"})
}
