package ldm

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	"fewstep/model/weights"
)

// site is where a file keeps a component: behind a prefix, under one of the two namings. Which prefix that is, the
// component's own tensors tell: whatever stands before down_blocks.0.resnets.0.conv1.weight is one, be it
// model.diffusion_model., unet., module. or something that nobody has thought of yet.
type site struct {
	component string
	names     layout // of a text encoder: diffusers = transformers' names, ldm = OpenCLIP's
	prefix    string
}

// Beginnings that make a name one of a component's own, by naming. They are matched where a name begins or behind a dot.
var ownNames = []struct {
	component string
	names     layout
	begins    *regexp.Regexp
}{
	{UNet, ldm, own(`(?:input_blocks|output_blocks)\.\d+\.\d+|middle_block\.\d+\.[a-z]|time_embed\.\d+|label_emb\.\d+\.\d+`)},
	{UNet, diffusers, own(`(?:down_blocks|up_blocks)\.\d+\.(?:resnets|attentions|downsamplers|upsamplers)\.\d+|mid_block\.(?:resnets|attentions)\.\d+|(?:time|add)_embedding\.linear_`)},
	{VAE, ldm, own(`(?:encoder|decoder)\.(?:(?:down|up)\.\d+\.(?:block|downsample|upsample|attn)\.|mid\.(?:block|attn)_)`)},
	{VAE, diffusers, own(`(?:encoder|decoder)\.(?:(?:down|up)_blocks\.\d+\.(?:resnets|downsamplers|upsamplers)\.\d+|mid_block\.(?:resnets|attentions)\.\d+)`)},
	{anyText, diffusers, own(`(?:text_model\.)?(?:encoder\.layers\.\d+\.(?:self_attn|layer_norm[12]|mlp)\.?|embeddings\.(?:token|position)_embedding|final_layer_norm)`)},
	{anyText, ldm, own(`transformer\.resblocks\.\d+\.|token_embedding\.weight|positional_embedding|ln_final\.`)},
}

// anyText stands for a text encoder of which it is not known yet whether it is the first or the second.
const anyText = "text"

func own(begins string) *regexp.Regexp { return regexp.MustCompile(`(?:^|\.)(?:` + begins + `)`) }

// adapter finds the names of LoRA files and their kin.
var adapter = regexp.MustCompile(`lora[_.]|_lora\.|\.lokr_|\.hada_|\.oft_|dora_scale|magnitude_vector|\.alpha$|\.diff(_b)?$|\.on_input$|^bundle_emb\.`)

// siteOf finds the component that a name is a tensor of, by the name alone.
func siteOf(name string) (s site, ok bool) {
	for _, own := range ownNames {
		at := own.begins.FindStringIndex(name)
		if at == nil {
			continue
		}
		s = site{own.component, own.names, name[:at[0]]}
		if at[0] > 0 || name[0] == '.' {
			s.prefix = name[:at[0]+1]
		}
		last := s.prefix[strings.LastIndexByte(strings.TrimSuffix(s.prefix, "."), '.')+1:]
		switch {
		case s.component == UNet && (last == "encoder." || last == "decoder."):
			continue // the autoencoder's blocks
		case last == "vision_model." || last == "visual." || strings.HasPrefix(name[len(s.prefix):], "encoder.layers") && strings.Contains(s.prefix, "vision"):
			return s, false
		}
		return s, true
	}
	return s, false
}

// standard are the places of components in the files that Stability AI's code writes.
var standard = slices.Concat(forms[FormXL], forms[Form1][2:], forms[Form2][2:])

// Standard says whether a part lies where one of the single-file layouts has it.
func (p Part) Standard() bool {
	return slices.ContainsFunc(standard, func(s site) bool { return s.component == p.Component && s.prefix == p.Prefix })
}

// place says which text encoder a prefix means, "" where it does not say.
func place(prefix string) string {
	for _, p := range []struct{ part, component string }{
		{"embedders.1.", Text2}, {"clip_g.", Text2}, {"text_encoder_2.", Text2}, {"te2.", Text2},
		{"embedders.0.", Text}, {"clip_l.", Text}, {"text_encoder.", Text}, {"text_encoder_1.", Text}, {"te1.", Text},
		{"cond_stage_model.", Text},
	} {
		if strings.Contains(prefix, p.part) {
			return p.component
		}
	}
	return ""
}

// findSites tells where a file's components lie. Of several candidates for one component, such as a UNet and its moving
// average, the one with the layout's own prefix is taken, then one without "ema" in its prefix, then the largest.
func findSites(names []string) []site {
	count := map[site]int{}
	projected := map[string]bool{} // prefixes with a text projection
	for _, name := range names {
		if adapter.MatchString(name) {
			continue
		}
		if s, ok := siteOf(name); ok {
			count[s]++
		} else {
			for _, s := range standard {
				if strings.HasPrefix(name, s.prefix) {
					count[s] += 0 // a candidate, if a weak one
				}
			}
		}
		if prefix, ok := strings.CutSuffix(name, "text_projection.weight"); ok {
			projected[prefix] = true
		}
	}
	// Tensors of transformers' names come with text_model. before them or without it, and both are one encoder.
	candidates := map[site]int{}
	for s, n := range count {
		if s.component == anyText {
			s.component = place(s.prefix)
			if s.component == "" {
				s.component = Text
				if s.names == ldm || projected[s.prefix] {
					s.component = Text2
				}
			}
		}
		candidates[s] += n
	}
	var found []site
	for _, component := range Components {
		var own []site
		for s := range candidates {
			if s.component == component {
				own = append(own, s)
			}
		}
		if len(own) == 0 {
			continue
		}
		found = append(found, slices.MinFunc(own, func(a, b site) int {
			return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(candidates[b], candidates[a]), cmp.Compare(len(a.prefix), len(b.prefix)),
				cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.names, b.names))
		}))
	}
	return found
}

func rank(s site) int {
	switch {
	case slices.Contains(standard, s):
		return 0
	case strings.Contains(strings.ToLower(s.prefix), "ema"):
		return 2
	}
	return 1
}

// owner is the site that a tensor belongs to, the one with the longest prefix, and its name there.
func owner(sites []site, name string) (s site, rest string, ok bool) {
	for _, candidate := range sites {
		if r, has := strings.CutPrefix(name, candidate.prefix); has && (!ok || len(candidate.prefix) > len(s.prefix)) {
			s, rest, ok = candidate, r, true
		}
	}
	return s, rest, ok
}

// plainNames maps names without what wrappers of PyTorch's put between a model and its parts (an element that begins with
// an underscore, as _orig_mod of torch.compile and _fsdp_wrapped_module, and PEFT's base_layer) to those in the file. Of
// two that become one, that without a wrapper stays.
func plainNames(names []string) (plain map[string]string, doubles []string) {
	plain = map[string]string{}
	for _, name := range names {
		elements := slices.DeleteFunc(strings.Split(name, "."), func(e string) bool {
			return len(e) > 1 && e[0] == '_' || e == "base_layer"
		})
		short := strings.Join(elements, ".")
		if other, twice := plain[short]; twice {
			if name == short {
				name, other = other, name
			}
			doubles = append(doubles, name)
			plain[short] = other
			continue
		}
		plain[short] = name
	}
	return plain, doubles
}

// wrapped is a source under its plain names.
type wrapped struct {
	weights.Source
	plain map[string]string
	names []string
}

// unwrapped sees a source under names without PyTorch's wrappers.
func unwrapped(src weights.Source) wrapped {
	plain, _ := plainNames(src.Names())
	return wrapped{src, plain, slices.Sorted(maps.Keys(plain))}
}

func (w wrapped) Names() []string { return w.names }

func (w wrapped) Tensor(name string) (weights.Tensor, error) {
	original, ok := w.plain[name]
	if !ok {
		original = name // the source's own error
	}
	return w.Source.Tensor(original)
}
