package base

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"fewstep/engine"
	"fewstep/engine/encoder"
	"fewstep/model/clip"
	"fewstep/model/family"
	"fewstep/model/nn"
	"fewstep/model/pipeline"
	"fewstep/model/weights"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/graph"
)

// clipNetwork is both text encoders and the image encoder, trained together against each other. The first text encoder
// has no projection of its own in SDXL's layout; "align" is one for training only.
func (t *Trainer) clipNetwork() nn.Block {
	dim := t.p.Text[1].ProjectionDim
	align := nn.Block{Kind: fmt.Sprintf("align(%d)", dim), Name: "align", Build: func(s *nn.Scope, in []*graph.Node) []*graph.Node {
		return []*graph.Node{s.Linear("out", in[0], dim, false)}
	}}
	return nn.Block{Kind: "clip_training", Name: "clip", Level: nn.Network, Compose: func(r nn.Runner, in []nn.Value) []nn.Value {
		image := r.Run(t.p.Vision.Vision("vision"), in[0])[0]
		one := nn.One(r, align, r.Run(t.p.Text[0].Text("text1"), in[1], in[2])[1])
		two := r.Run(t.p.Text[1].Text("text2"), in[3], in[4])[2]
		return []nn.Value{nn.One(r, clip.Logits("scale1"), image, one), nn.One(r, clip.Logits("scale2"), image, two)}
	}}
}

// trainCLIP minimises the contrastive loss of images against captions; images that share a caption share its target.
func (t *Trainer) trainCLIP(ctx context.Context) error {
	if t.p.Kind != family.SDXL {
		return fmt.Errorf("%s is a model of %s: text encoders are trained in pairs, as SDXL's structure has them; leave the part clip out", t.p.Dir, t.p.Kind.Name)
	}
	if t.p.Vision == nil {
		return fmt.Errorf("%s has no clip/config.json for the image encoder", t.p.Dir)
	}
	part, size, tokens := &t.Config.CLIP, t.Config.Resolution, t.p.Tokens()
	if size != t.p.Vision.ImageSize {
		return fmt.Errorf("clip/config.json wants images of %d pixels, the recipe's resolution is %d", t.p.Vision.ImageSize, size)
	}
	n := part.Batch
	in := []shapes.Shape{shapes.Make(dtypes.Float32, n, size, size, 3), shapes.Make(dtypes.Int32, n, tokens), shapes.Make(dtypes.Int32, n),
		shapes.Make(dtypes.Int32, n, tokens), shapes.Make(dtypes.Int32, n)}
	specs, err := nn.Trace(t.Backend, t.clipNetwork(), in...)
	if err != nil {
		return err
	}
	loss := nn.Block{Kind: "contrastive", Build: func(_ *nn.Scope, in []*graph.Node) []*graph.Node {
		ids := in[2]
		same := graph.ConvertDType(graph.Equal(graph.BroadcastToDims(graph.Reshape(ids, n, 1), n, n), graph.BroadcastToDims(graph.Reshape(ids, 1, n), n, n)), dtypes.Float32)
		target := graph.Div(same, graph.ReduceAndKeep(same, graph.ReduceSum, 1))
		total := graph.ScalarZero(in[0].Graph(), dtypes.Float32)
		for _, logits := range in[:2] {
			for _, l := range []*graph.Node{logits, graph.Transpose(logits, 0, 1)} {
				top := graph.StopGradient(graph.ReduceAndKeep(l, graph.ReduceMax, 1))
				l = graph.Sub(l, top)
				logp := graph.Sub(l, graph.Log(graph.ReduceAndKeep(graph.Exp(l), graph.ReduceSum, 1)))
				total = graph.Sub(total, graph.DivScalar(graph.ReduceAllSum(graph.Mul(target, logp)), 4*n))
			}
		}
		return []*graph.Node{total}
	}}
	f := engine.Function{Key: "clip_train", Body: func(r nn.Runner, in []nn.Value) []nn.Value {
		logits := r.Run(t.clipNetwork(), in[:5]...)
		return r.Run(loss, logits[0], logits[1], in[5])
	}}
	captions := captionIndex(t.train.Captions())
	v, err := t.loop(ctx, "clip", part, f, specs, t.fresh(specs), func(first int64) (batch, error) {
		pictures, err := images(t.train, n, size, func(i int) int { return t.order.Row(first + int64(i)) })
		if err != nil {
			return nil, err
		}
		ids := [2][]int32{}
		eos := [2][]int32{}
		same := make([]int32, n)
		for i := range n {
			k := first + int64(i)
			caption := t.order.Caption(k)
			same[i] = captions[caption]
			for e := range 2 {
				id, _ := t.p.Tokenizer[e].Encode(caption)
				ids[e] = append(ids[e], id...)
				eos[e] = append(eos[e], t.p.Text[e].EOSPosition(id))
			}
		}
		return batch{{slices.Concat(pictures...), []int{n, size, size, 3}}, {ids[0], []int{n, tokens}}, {eos[0], []int{n}},
			{ids[1], []int{n, tokens}}, {eos[1], []int{n}}, {same, []int{n}}}, nil
	})
	if err != nil {
		return err
	}
	return t.saveCLIP(specs, v)
}

func captionIndex(all []string) map[string]int32 {
	m := map[string]int32{}
	for i, c := range all {
		m[c] = int32(i)
	}
	return m
}

// saveCLIP writes the encoders with both text conditions scaled to unit deviation, which their norms make exact, and
// the CLIPModel that the mini metrics use.
func (t *Trainer) saveCLIP(specs []nn.Spec, v engine.Tensors) error {
	part := func(prefix string) (out []nn.Spec, values engine.Tensors) {
		values = engine.Tensors{}
		for _, s := range specs {
			if rest, ok := strings.CutPrefix(s.Name, prefix+"."); ok {
				values[rest] = v[s.Name]
				out = append(out, nn.Spec{Name: rest, Dims: s.Dims, Init: s.Init})
			}
		}
		return out, values
	}
	components := []string{"text_encoder", "text_encoder_2"}
	var textSpecs []nn.Spec
	var textValues engine.Tensors
	for i, c := range components {
		textSpecs, textValues = part([]string{"text1", "text2"}[i])
		if err := pipeline.Write(t.p.Dir, c, textSpecs, textValues, weights.F32, nil); err != nil {
			return err
		}
	}
	// The metric's model keeps the scale of training: cosines do not depend on it.
	all, values := part("vision")
	all = append(all, textSpecs...)
	for _, s := range textSpecs {
		values[s.Name] = append([]float32{}, textValues[s.Name]...)
	}
	all = append(all, nn.Spec{Name: "logit_scale"})
	values["logit_scale"] = v["scale2.logit_scale"]
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	if err := pipeline.Write(t.p.Dir, "clip", all, values, weights.F16, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return t.normaliseText()
}

// normaliseText measures both text conditions over the training captions and scales the encoders' residual streams and
// the projection so that each condition has unit deviation.
func (t *Trainer) normaliseText() error {
	e := engine.New(t.Backend, dtypes.Float32, nn.Network)
	enc, err := encoder.Load(t.p, e, 64, encoder.TextPart)
	if err != nil {
		return err
	}
	embeddings, err := enc.Text(t.train.Captions())
	enc.Free()
	if err != nil {
		return err
	}
	deviation := func(pick func(family.Conditions) []float32) float64 {
		var sum, square, n float64
		for _, e := range embeddings {
			for _, x := range pick(e) {
				sum, square, n = sum+float64(x), square+float64(x)*float64(x), n+1
			}
		}
		return math.Sqrt(square/n - sum/n*sum/n)
	}
	width, one := t.p.UNet.CrossAttentionDim, t.p.Text[0].HiddenSize
	columns := func(from, to int) func(family.Conditions) []float32 {
		return func(e family.Conditions) (out []float32) {
			for i := 0; i < len(e[family.Text]); i += width {
				out = append(out, e[family.Text][i+from:i+to]...)
			}
			return out
		}
	}
	scales := []float64{1 / deviation(columns(0, one)), 1 / deviation(columns(one, width))}
	pooled := 1 / deviation(func(e family.Conditions) []float32 { return e[family.Pooled] })
	for i, component := range []string{"text_encoder", "text_encoder_2"} {
		v, err := pipeline.Read(t.p.Dir, component)
		if err != nil {
			return err
		}
		specs, err := nn.Trace(t.Backend, t.p.Text[i].Text(""), t.p.TextShapes(1)...)
		if err != nil {
			return err
		}
		for name, x := range v {
			k := 1.0
			switch {
			case name == "text_projection.weight":
				k = pooled
			case strings.Contains(name, ".embeddings."), strings.Contains(name, ".out_proj."), strings.Contains(name, ".fc2."):
				k = scales[i]
			}
			for j := range x {
				x[j] = float32(float64(x[j]) * k)
			}
		}
		if err := pipeline.Write(t.p.Dir, component, specs, v, weights.F16, map[string]string{"format": "pt"}); err != nil {
			return err
		}
	}
	t.Log.Info("text conditions scaled", "text_encoder", scales[0], "text_encoder_2", scales[1], "pooled", pooled)
	return nil
}
