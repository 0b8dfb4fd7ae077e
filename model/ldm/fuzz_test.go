package ldm

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"fewstep/model/weights"
)

// FuzzCheckpoint reads files of any names and shapes: an error, or tensors that write back to the same names and shapes.
// A line is a name, and its dimensions behind it.
func FuzzCheckpoint(f *testing.F) {
	f.Add("model.diffusion_model.input_blocks.0.0.weight 4 4 3 3\nmodel.diffusion_model.label_emb.0.0.weight 8 4\nmodel.diffusion_model.input_blocks.3.0.op.weight 2 2\nmodel.diffusion_model.input_blocks.4.1.norm.weight 2")
	f.Add("model.diffusion_model.label_emb.0.0.weight 8 4\nconditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight 6 2\nconditioner.embedders.1.model.text_projection 2 3")
	f.Add("model.diffusion_model.label_emb.0.0.bias 1\nmodel.diffusion_model.label_emb.0.0.weight 8 4\nmodel.diffusion_model.output_blocks.2.2.conv.weight 1 1 3 3\nmodel.diffusion_model.output_blocks.0.1.norm.weight 1\nmodel.diffusion_model.input_blocks.3.0.op.weight 2 2")
	f.Add("first_stage_model.encoder.conv_in.weight 4 3 3 3\nfirst_stage_model.encoder.down.1.block.0.norm1.weight 4\nfirst_stage_model.decoder.up.0.block.0.norm1.weight 4\nfirst_stage_model.decoder.mid.attn_1.q.weight 4 4 1 1")
	f.Add("model.diffusion_model.middle_block.-1.x 1\nmodel.diffusion_model.input_blocks.-3.0.in_layers.0.weight 2\nmodel.diffusion_model.label_emb.0.0.weight 1")
	f.Add("unet._orig_mod.down_blocks.0.resnets.0.norm1.weight 4\nunet._orig_mod.add_embedding.linear_1.weight 4 4\nvae.encoder.mid_block.attentions.0.query.weight 4 4\nte.encoder.layers.0.mlp.fc1.bias 4\ntext_encoder_2.text_projection.weight 4 4")
	f.Add("module.input_blocks.0.0.weight 4 4 3 3\nlabel_emb.0.0.weight 4 4\nx.ema.input_blocks.0.0.weight 4 4 3 3\nclip_g.token_embedding.weight 4 4")
	f.Fuzz(func(t *testing.T, text string) {
		file := tensors{}
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) == 0 {
				continue
			}
			x := weights.Tensor{Name: fields[0], DType: weights.U8}
			n := 1
			for _, d := range fields[1:] {
				size := min(len(d)+int(d[0])%8, 9)
				x.Shape, n = append(x.Shape, size), n*size
				if len(x.Shape) == 4 {
					break
				}
			}
			x.Data = make([]byte, n)
			file[x.Name] = x
		}
		c, err := New("fuzz", file, nil)
		if err != nil {
			return
		}
		components := map[string]weights.Source{}
		for _, component := range Components {
			if !c.Has(component) {
				continue
			}
			src, err := c.Component(component)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range src.Names() {
				x, err := src.Tensor(name)
				if err != nil {
					return // a shape that cannot be taken apart
				}
				if _, err := x.Bytes(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			components[component] = src
		}
		if plain, doubles := plainNames(file.Names()); len(doubles) > 0 || !slices.Equal(slices.Sorted(maps.Keys(plain)), file.Names()) ||
			slices.ContainsFunc(look(file).sites, func(s site) bool { return !slices.Contains(standard, s) }) {
			return // written, the names are others
		}
		if src := components[UNet]; src != nil && !slices.Equal(namesOfDiffusers(src.Names()).layers, namesOfLDM(restOf(file, UNet)).layers) {
			return // without its down blocks, a UNet's numbers cannot be told
		}
		if src := components[VAE]; src != nil && vaeNamesOf(src.Names()) != vaeNamesOf(restOf(file, VAE)) {
			return
		}
		again, err := Tensors(formOf(c), components)
		if err != nil {
			return // a tensor of the first text encoder without its prefix
		}
		var got, want []string
		for _, x := range again {
			got = append(got, x.Name)
			original, ok := file[x.Name]
			if ok && strings.HasPrefix(x.Name, vaePrefix) && slices.Equal(append(slices.Clone(original.Shape), 1, 1), x.Shape) {
				continue // a matrix in the VAE's attention gets the form that it has in every other file
			}
			if ok && !slices.Equal(original.Shape, x.Shape) {
				t.Errorf("%s: shape %v became %v", x.Name, original.Shape, x.Shape)
			}
		}
		for _, name := range file.Names() {
			if !slices.Contains(c.LeftOut(), name) {
				want = append(want, strings.Replace(name, "text_projection.weight", "text_projection", 1))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func restOf(src weights.Source, component string) (names []string) {
	found := look(src)
	for _, name := range found.src.names {
		if s, rest, ok := owner(found.sites, name); ok && s.component == component {
			names = append(names, rest)
		}
	}
	return names
}

// formOf is the form that a checkpoint has.
func formOf(c *Checkpoint) Form {
	for form, sites := range forms {
		for _, s := range sites {
			if isText(s.component) && slices.ContainsFunc(look(c.src).sites, func(own site) bool { return own == s }) {
				return form
			}
		}
	}
	return FormXL
}
