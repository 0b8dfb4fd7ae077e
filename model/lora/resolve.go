package lora

import (
	"fmt"
	"regexp"
	"strings"

	"fewstep/model/ldm"
)

// Layers are the module paths that a LoRA can change, by component: diffusers' and transformers' paths, without ".weight".
type Layers map[string][]string

// target is a layer of a component.
type target struct{ component, path string }

// resolver finds the layer that a module's name means. Names are compared without regard to dots and underscores, under
// diffusers' and LDM's spelling, and may come behind any of the prefixes that programs put before them.
type resolver map[string]map[string]string // component, flat name, path

func flat(name string) string { return strings.ReplaceAll(name, ".", "_") }

func resolverOf(layers Layers) (resolver, error) {
	r := resolver{}
	for component, paths := range layers {
		names := map[string]string{}
		add := func(name, path string) error {
			if other, taken := names[flat(name)]; taken && other != path {
				return fmt.Errorf("the model's modules %s and %s have the same kohya name", other, path)
			}
			names[flat(name)] = path
			return nil
		}
		for _, path := range paths {
			if err := add(path, path); err != nil {
				return nil, err
			}
			if component == ldm.UNet {
				continue
			}
			old := olderText.Replace(path) // diffusers' before 0.20
			for _, name := range []string{old, strings.TrimPrefix(path, "text_model."), strings.TrimPrefix(old, "text_model.")} {
				if err := add(name, path); err != nil { // without text_model. in transformers 5
					return nil, err
				}
			}
		}
		if component == ldm.UNet {
			for path, name := range ldm.UNetModules(paths) {
				if err := add(name, path); err != nil {
					return nil, err
				}
			}
		}
		r[component] = names
	}
	return r, nil
}

var olderText = strings.NewReplacer(".q_proj", ".to_q", ".k_proj", ".to_k", ".v_proj", ".to_v", ".out_proj", ".to_out.0")

// prefixes that name a component, once dots are underscores; filler may stand before and behind them.
var (
	textPrefix = []struct {
		component string
		prefix    *regexp.Regexp
	}{
		{ldm.Text2, regexp.MustCompile(`(?:^|_)(?:te2|text_encoder_2|clip_g|embedders_1)_`)},
		{ldm.Text, regexp.MustCompile(`(?:^|_)(?:te1?|text_encoder(?:_1)?|clip_l|embedders_0)_`)},
	}
	otherText = regexp.MustCompile(`^(?:lora_)?(?:te3|text_encoder_3|t5xxl)_|^(?:base_model_model_)?text_encoder`)
	filler    = regexp.MustCompile(`^(?:(?:base|model|unet|diffusion|lora|lycoris|module|orig|mod|pipe|transformer|text|encoders|conditioner)?_)*$`)
)

// component tells what a flat name's prefix says it is a module of.
func component(name string) string {
	for _, t := range textPrefix {
		// A prefix only: self_attn_te1_… would be none, and no layer is called so.
		if at := t.prefix.FindStringIndex(name); at != nil && filler.MatchString(name[:at[0]]+"_") {
			return t.component
		}
	}
	return ldm.UNet
}

// find gives the layer of a module as a file spells it. The longest known name at its end counts, if what stands before
// it is a prefix.
func (r resolver) find(module string) (target, bool) {
	name := flat(module)
	of := component(name)
	names := r[of]
	for at := 0; at < len(name); {
		path, ok := names[name[at:]]
		if ok && r.isPrefix(name[:at], of) {
			return target{of, path}, true
		}
		next := strings.IndexByte(name[at:], '_')
		if next < 0 {
			break
		}
		at += next + 1
	}
	return target{}, false
}

func (r resolver) isPrefix(prefix, of string) bool {
	for _, t := range textPrefix {
		if t.component == of {
			prefix = t.prefix.ReplaceAllString(prefix, "_")
		}
	}
	return filler.MatchString(prefix)
}

// isText says whether a module as a file spells it belongs to a text encoder.
func isText(module string) bool {
	name := flat(module)
	return component(name) != ldm.UNet || otherText.MatchString(name)
}

// short is a module's name without the usual prefixes, for messages.
func short(module string) string {
	for _, prefix := range []string{kohyaPrefix, "base_model.model.unet.", "base_model.model.", "unet."} {
		if rest, ok := strings.CutPrefix(module, prefix); ok {
			return rest
		}
	}
	return module
}
