package base

import (
	"context"
	"fmt"
	"math"

	"fewstep/distill"
	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
	"fewstep/train/monitor"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/gomlx/core/graph"
)

// Weights of the autoencoder's loss.
const (
	edgeWeight = 1.0  // differences of neighbouring pixels, against blur
	klWeight   = 2e-5 // Kullback–Leibler divergence per latent value
)

// trainVAE minimises L1 + edges + a little KL, then folds per-channel centring and scaling of the latents into the
// quantisation convolutions: a UNet then sees zero mean and unit deviation per channel with scaling_factor 1.
func (t *Trainer) trainVAE(ctx context.Context) error {
	specs, err := t.p.VAESpecs(t.Backend)
	if err != nil {
		return err
	}
	part, size := &t.Config.VAE, t.Config.Resolution
	if part.Crop > 0 {
		size = part.Crop
	}
	n, side, ch := part.Batch, size/t.p.Factor(), t.p.VAE.LatentChannels
	loss := nn.Block{Kind: "vae_loss", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		f := func(x *graph.Node) *graph.Node { return graph.ConvertDType(x, dtypes.Float32) }
		image, mean, logvar, target := f(in[0]), f(in[1]), f(in[2]), f(in[3])
		d := graph.Sub(image, target)
		l := graph.Add(graph.ReduceAllMean(graph.Abs(d)), graph.ReduceAllMean(graph.Square(d)))
		for axis := 1; axis <= 2; axis++ {
			a := graph.SliceAxis(d, axis, graph.AxisRange(1))
			b := graph.SliceAxis(d, axis, graph.AxisRangeFromStart(size-1))
			l = graph.Add(l, graph.MulScalar(graph.ReduceAllMean(graph.Abs(graph.Sub(a, b))), edgeWeight))
		}
		kl := graph.ReduceAllMean(graph.Sub(graph.Add(graph.Square(mean), graph.Exp(logvar)), graph.AddScalar(logvar, 1.0)))
		return []*graph.Node{graph.Add(l, graph.MulScalar(kl, klWeight*0.5*float64(side*side*ch)))}
	}}
	f := engine.Function{Key: "vae_train", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		out := r.Run(t.p.VAE.Autoencoder("vae"), in[0], in[1])
		return r.Run(loss, out[0], out[1], out[2], in[0])
	}}
	trained, err := t.loop(ctx, "vae", &part.Part, f, specs, t.fresh(specs), func(first int64) (batch, error) {
		whole, err := images(t.train, n, t.Config.Resolution, func(i int) int { return t.order.Row(first + int64(i)) })
		if err != nil {
			return nil, err
		}
		pixels := make([]float32, 0, n*size*size*3)
		noise := make([]float32, n*side*side*ch)
		for i := range n {
			k := first + int64(i)
			pixels = append(pixels, t.crop(whole[i], size, k)...)
			distill.Normal(noise[i*side*side*ch:(i+1)*side*side*ch], t.Config.Seed, distill.Noise, k)
		}
		return batch{{pixels, []int{n, size, size, 3}}, {noise, []int{n, side, side, ch}}}, nil
	})
	if err != nil {
		return err
	}
	if err := pipeline.Write(t.p.Dir, "vae", specs, trained, weights.F32, nil); err != nil {
		return err
	}
	if err := t.normaliseLatents(ctx, trained); err != nil {
		return err
	}
	if err := pipeline.Write(t.p.Dir, "vae", specs, trained, weights.F16, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return t.reportVAE()
}

// crop cuts a square of the given side from sample k's image at a place that follows from k.
func (t *Trainer) crop(img []float32, side int, k int64) []float32 {
	whole := t.Config.Resolution
	if side == whole {
		return img
	}
	x, y := distill.Pick(whole-side+1, t.Config.Seed, distill.Crop, k, 0), distill.Pick(whole-side+1, t.Config.Seed, distill.Crop, k, 1)
	out := make([]float32, 0, side*side*3)
	for row := y; row < y+side; row++ {
		at := (row*whole + x) * 3
		out = append(out, img[at:at+3*side]...)
	}
	return out
}

// encodeAll returns the latents of every training row. Interrupted it ends after the chunk at hand; nothing of it is kept.
func (t *Trainer) encodeAll(ctx context.Context) ([][]float32, error) {
	e := engine.New(t.Backend, dtypes.Float32, nn.Network)
	enc, err := encoder.Load(t.p, e, 32, encoder.VAEPart)
	if err != nil {
		return nil, err
	}
	defer enc.Free()
	var all [][]float32
	told := monitor.LogProgress(t.Log, "encoding", "images", 0)
	type drawn struct {
		images [][]float32
		err    error
	}
	const chunk = 1024
	ready := make(chan drawn, 1) // the next chunk's images are decoded while this one's are encoded
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for start := 0; start < t.train.Len(); start += chunk {
			var d drawn
			d.images, d.err = images(t.train, min(chunk, t.train.Len()-start), t.Config.Resolution, func(i int) int { return start + i })
			select {
			case ready <- d:
			case <-stop:
				return
			}
		}
	}()
	for len(all) < t.train.Len() {
		if ctx.Err() != nil {
			return nil, ErrInterrupted
		}
		d := <-ready
		if d.err != nil {
			return nil, d.err
		}
		z, err := enc.Latents(d.images, pipeline.Square(t.Config.Resolution))
		if err != nil {
			return nil, err
		}
		all = append(all, z...)
		told(len(all), t.train.Len())
	}
	return all, nil
}

// normaliseLatents measures the latents of the training images with the weights on disk and changes the quantisation
// convolutions so that each channel has mean 0 and deviation 1.
func (t *Trainer) normaliseLatents(ctx context.Context, v engine.Tensors) error {
	latents, err := t.encodeAll(ctx)
	if err != nil {
		return err
	}
	ch := t.p.VAE.LatentChannels
	sum, square, count := make([]float64, ch), make([]float64, ch), 0.0
	for _, z := range latents {
		for i, x := range z {
			sum[i%ch] += float64(x)
			square[i%ch] += float64(x) * float64(x)
		}
		count += float64(len(z) / ch)
	}
	for c := range ch {
		mean := sum[c] / count
		dev := math.Sqrt(square[c]/count - mean*mean)
		t.Log.Info("latent channel", "channel", c, "mean", fmt.Sprintf("%.3f", mean), "deviation", fmt.Sprintf("%.3f", dev))
		rescaleChannel(v, ch, c, mean, dev)
	}
	return nil
}

// rescaleChannel makes the autoencoder's latent channel c into (z − mean)/dev, without changing what it reconstructs.
func rescaleChannel(v engine.Tensors, ch, c int, mean, dev float64) {
	quant, bias := v["quant_conv.weight"], v["quant_conv.bias"]
	for i := range 2 * ch { // rows: means, then log-variances
		quant[c*2*ch+i] = float32(float64(quant[c*2*ch+i]) / dev)
	}
	bias[c] = float32((float64(bias[c]) - mean) / dev)
	bias[ch+c] = float32(float64(bias[ch+c]) - 2*math.Log(dev))
	post, postBias := v["post_quant_conv.weight"], v["post_quant_conv.bias"]
	for o := range ch {
		w := float64(post[o*ch+c])
		postBias[o] = float32(float64(postBias[o]) + w*mean)
		post[o*ch+c] = float32(w * dev)
	}
}

// reportVAE logs the reconstruction's signal-to-noise ratio on held-out images, by the posterior mean.
func (t *Trainer) reportVAE() error {
	set := t.eval
	if set == nil {
		set = t.train
	}
	e := engine.New(t.Backend, dtypes.Float32, nn.Network)
	enc, err := encoder.Load(t.p, e, 32, encoder.VAEPart)
	if err != nil {
		return err
	}
	defer enc.Free()
	real, err := images(set, min(set.Len(), 256), t.Config.Resolution, func(i int) int { return i })
	if err != nil {
		return err
	}
	z, err := enc.Latents(real, pipeline.Square(t.Config.Resolution))
	if err != nil {
		return err
	}
	back, err := enc.Images(z, pipeline.Square(t.Config.Resolution))
	if err != nil {
		return err
	}
	mse, n := 0.0, 0
	for i := range real {
		for j := range real[i] {
			d := float64(real[i][j]-min(max(back[i][j], -1), 1)) / 2
			mse += d * d
			n++
		}
	}
	t.Log.Info("vae", "psnr_db", fmt.Sprintf("%.2f", -10*math.Log10(mse/float64(n))), "images", len(real))
	return nil
}
