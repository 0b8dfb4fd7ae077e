package lora

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fewstep/model/weights"
)

// Description is what a LoRA file's header tells without knowing the model.
type Description struct {
	Namings      []Naming
	Modules      int // of the UNet, or of whatever network is not a text encoder
	TextEncoder  int // modules of text encoders
	Ranks        []int
	MissingAlpha int
	Context      int      // width of the text that cross-attention takes, which tells the family; 0 where no module says
	Problems     []string // modules with a half missing, or halves that do not fit each other
	names        []string
}

// Mentions says whether a module's name contains part.
func (d Description) Mentions(part string) bool {
	return slices.ContainsFunc(d.names, func(name string) bool { return strings.Contains(name, part) })
}

// Describe reads the names and shapes of a LoRA of any naming. The error names a tensor that is no part of a plain LoRA.
func Describe(src weights.Source) (Description, error) {
	var d Description
	found := map[string]*[3]string{}
	namings, text := map[Naming]bool{}, map[string]bool{}
	for _, name := range src.Names() {
		k, err := parseKey(name)
		if err != nil {
			return d, fmt.Errorf("tensor %s: %w", name, err)
		}
		if k.textEncoder {
			text[k.module] = true
			continue
		}
		if k.naming != "" {
			namings[k.naming] = true
		}
		if found[k.module] == nil {
			found[k.module] = new([3]string)
		}
		found[k.module][k.part] = name
	}
	d.Namings, d.Modules, d.TextEncoder = slices.Sorted(maps.Keys(namings)), len(found), len(text)
	d.names = slices.Sorted(maps.Keys(found))
	ranks := map[int]bool{}
	for _, module := range d.names {
		parts := found[module]
		var shapes [2][]int
		for _, half := range []part{down, up} {
			t, err := src.Tensor(parts[half])
			if parts[half] == "" || err != nil {
				d.Problems = append(d.Problems, fmt.Sprintf("module %s has no %s", module, half))
				continue
			}
			shapes[half] = t.Shape
		}
		if parts[alpha] == "" {
			d.MissingAlpha++
		}
		if len(shapes[down]) < 2 || len(shapes[up]) < 2 {
			continue
		}
		rank := shapes[down][0]
		ranks[rank] = true
		if shapes[up][1] != rank {
			d.Problems = append(d.Problems, fmt.Sprintf("module %s: down has the shape %v and up %v, which do not fit each other", module, shapes[down], shapes[up]))
		}
		if (strings.HasSuffix(module, "attn2.to_k") || strings.HasSuffix(module, "attn2_to_k")) && len(shapes[down]) == 2 {
			d.Context = shapes[down][1]
		}
	}
	d.Ranks = slices.Sorted(maps.Keys(ranks))
	return d, nil
}
