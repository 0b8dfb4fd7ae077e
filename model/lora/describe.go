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
	Kinds        []string // of what is no plain LoRA: KindLoHa, …, "DoRA"
	LeftOut      []string // tensors that are no part of an adapter
	Problems     []string // modules with a half missing, or halves that do not fit each other
	names        []string
}

// Mentions says whether a module's name contains part.
func (d Description) Mentions(part string) bool {
	return slices.ContainsFunc(d.names, func(name string) bool { return strings.Contains(name, part) })
}

// Describe reads the names and shapes of a LoRA of any naming and kind. The error names a tensor that no module is known to
// have.
func Describe(src weights.Source) (Description, error) {
	var d Description
	found := map[string]map[part]string{}
	whole := map[string]bool{}
	namings, text, kinds := map[Naming]bool{}, map[string]bool{}, map[string]bool{}
	for _, name := range src.Names() {
		k, ok := parseKey(name)
		if !ok {
			d.LeftOut = append(d.LeftOut, name)
			continue
		}
		if isText(k.module) {
			text[k.module] = true
			continue
		}
		if k.naming != "" {
			namings[k.naming] = true
		}
		module := short(k.module)
		whole[k.module] = true
		if found[module] == nil {
			found[module] = map[part]string{}
		}
		found[module][k.part] = name
	}
	d.Namings, d.Modules, d.TextEncoder = slices.Sorted(maps.Keys(namings)), len(found), len(text)
	d.names = slices.Sorted(maps.Keys(whole))
	ranks := map[int]bool{}
	for _, module := range slices.Sorted(maps.Keys(found)) {
		d.describe(src, module, found[module], ranks, kinds)
	}
	d.Ranks, d.Kinds = slices.Sorted(maps.Keys(ranks)), slices.Sorted(maps.Keys(kinds))
	return d, nil
}

// describe adds a module.
func (d *Description) describe(src weights.Source, module string, parts map[part]string, ranks map[int]bool, kinds map[string]bool) {
	begins := func(prefix string) bool {
		for p := range parts {
			if strings.HasPrefix(string(p), prefix) {
				return true
			}
		}
		return false
	}
	if parts[alpha] == "" && !begins("diff") {
		d.MissingAlpha++
	}
	switch {
	case begins("hada_"):
		kinds[KindLoHa] = true
		return
	case begins("lokr_"):
		kinds[KindLoKr] = true
		return
	case parts[down] == "" && parts[up] == "" && begins("diff"):
		kinds[KindFull] = true
		return
	case parts[mid] != "":
		kinds[KindMid] = true
	}
	if parts[magnitude] != "" {
		kinds["DoRA"] = true
	}
	shapes := map[part][]int{}
	for _, half := range []part{down, up} {
		t, err := src.Tensor(parts[half])
		if parts[half] == "" || err != nil {
			d.Problems = append(d.Problems, fmt.Sprintf("module %s has no %s", module, half))
			continue
		}
		shapes[half] = t.Shape
	}
	if len(shapes[down]) < 2 || len(shapes[up]) < 2 {
		return
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
