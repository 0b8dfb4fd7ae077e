package base

import (
	"context"
	"math"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/unet"
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
	latents, err := t.encodeAll()
	if err != nil {
		return err
	}
	e := engine.New(t.Backend, dtypes.Float32, nn.Network)
	enc, err := t.p.LoadEncoders(e, 64, pipeline.TextPart)
	if err != nil {
		return err
	}
	captions := t.train.Captions()
	index := captionIndex(captions)
	embeddings, err := enc.Text(captions)
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
		u := nn.One(r, t.p.UNet.Network("unet", nil), in[:5]...)
		return r.Run(loss, u, in[5], in[6])
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
	size, td, pd := in[unet.InSample].Size()/c.Batch, in[unet.InText].Size()/c.Batch, in[unet.InPooled].Size()/c.Batch
	v, err := t.loop(ctx, "unet", &c.Part, f, specs, start, func(first int64) (batch, error) {
		n := c.Batch
		x, noise, ts := make([]float32, n*size), make([]float32, n*size), make([]float32, n)
		text, pooled, ids, w := make([]float32, n*td), make([]float32, n*pd), make([]float32, n*unet.TimeIDs), make([]float32, n)
		offset := make([]float32, t.p.UNet.InChannels)
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
			if distill.Uniform(seed, distill.Dropout, k, 0) >= c.Dropout {
				e := embeddings[index[t.order.Caption(k)]]
				copy(text[i*td:], e.Text)
				copy(pooled[i*pd:], e.Pooled)
			}
			copy(ids[i*unet.TimeIDs:], pipeline.TimeIDs(pipeline.Square(t.Config.Resolution)))
			w[i] = 1
			if c.MinSNR > 0 {
				snr := a * a / (b * b)
				w[i] = float32(math.Min(snr, c.MinSNR) / snr)
			}
		}
		return batch{{x, in[0].Dimensions}, {ts, in[1].Dimensions}, {text, in[2].Dimensions}, {pooled, in[3].Dimensions},
			{ids, in[4].Dimensions}, {noise, in[0].Dimensions}, {w, []int{n}}}, nil
	})
	if err != nil {
		return err
	}
	return pipeline.Write(t.p.Dir, "unet", specs, v, weights.F16, map[string]string{"format": "pt"})
}
