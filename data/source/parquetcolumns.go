package source

import (
	"fmt"
	"slices"
	"strings"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// leaf is a column of values.
type leaf struct {
	index    int
	name     string // its path joined with dots, without the levels that lists add
	kind     parquet.Kind
	text     bool // annotated as UTF-8 text
	repeated bool
}

func leaves(schema *parquet.Schema) (out []leaf) {
	for i, p := range schema.Columns() {
		l := leaf{index: i, kind: parquet.ByteArray}
		if column, ok := schema.Lookup(p...); ok {
			l.kind = column.Node.Type().Kind()
			l.repeated = column.MaxRepetitionLevel > 0
			if t := column.Node.Type().LogicalType(); t != nil {
				_, l.text = t.Value.(*format.StringType)
			}
		}
		name := slices.Clone(p)
		for len(name) > 1 && l.repeated {
			last := name[len(name)-1]
			if last != "list" && last != "element" && last != "item" && last != "array" && last != "bag" && last != "array_element" && last != "array_item" {
				break
			}
			name = name[:len(name)-1]
		}
		l.name = strings.Join(name, ".")
		out = append(out, l)
	}
	return out
}

func isBytes(k parquet.Kind) bool { return k == parquet.ByteArray || k == parquet.FixedLenByteArray }

// parquetColumns says which columns hold what; −1 = none.
type parquetColumns struct {
	leaves                    []leaf
	image, path, caption, key int
	named                     bool // image holds names of files, not files
	weight                    int
	texts                     map[int]func(e *entry, s string)
	others                    []int // columns that are kept for filters
}

// mostOthers bounds how many columns are kept.
const mostOthers = 64

func findColumns(schema *parquet.Schema, wantImage, wantCaption bool) (c parquetColumns, err error) {
	c = parquetColumns{leaves: leaves(schema), image: -1, path: -1, caption: -1, key: -1, weight: -1, texts: map[int]func(*entry, string){}}
	var names []string
	for _, l := range c.leaves {
		names = append(names, l.name)
	}
	find := func(candidates []string) int {
		if name, ok := nameOf(names, candidates); ok {
			return slices.Index(names, name)
		}
		return -1
	}
	c.image, c.path, c.caption, c.key, c.weight = find(imageNames), find(pathNames), find(captionNames), find(keyNames), find([]string{"weight"})
	have := strings.Join(names, ", ")
	if c.image >= 0 {
		switch l := c.leaves[c.image]; {
		case l.repeated:
			err = fmt.Errorf("column %s holds lists of %v; want one encoded image a row", l.name, l.kind)
		case !isBytes(l.kind):
			err = fmt.Errorf("column %s holds %v; want encoded images", l.name, l.kind)
		case l.text:
			c.named, c.path = true, c.image
		}
	} else if c.path >= 0 && strings.HasPrefix(strings.ToLower(c.leaves[c.path].name), "file") && isBytes(c.leaves[c.path].kind) {
		c.image, c.named = c.path, true // Hugging Face's metadata.parquet: names of files beside it
	} else if address := find(addressNames); address >= 0 {
		err = fmt.Errorf("no image column: column %s holds addresses of images; fetch them with img2dataset, and give what it writes", names[address])
	} else {
		err = fmt.Errorf("no image column; want one of %s, have %s", strings.Join(imageNames[:8], ", "), have)
	}
	if err != nil && wantImage {
		return c, err
	}
	if c.caption < 0 && wantCaption {
		return c, fmt.Errorf("no caption column; want one of %s, have %s", strings.Join(captionNames[:8], ", "), have)
	}
	if c.caption >= 0 && !isBytes(c.leaves[c.caption].kind) {
		if wantCaption {
			return c, fmt.Errorf("column %s holds %v, want bytes or text", names[c.caption], c.leaves[c.caption].kind)
		}
		c.caption = -1
	}
	if c.path >= 0 && (!isBytes(c.leaves[c.path].kind) || c.leaves[c.path].repeated) {
		c.path = -1
	}
	if c.key >= 0 && c.leaves[c.key].repeated {
		c.key = -1
	}
	if c.weight >= 0 && (c.leaves[c.weight].repeated || c.leaves[c.weight].kind == parquet.ByteArray || c.leaves[c.weight].kind == parquet.Boolean) {
		return c, fmt.Errorf("column weight holds %v, want a number", c.leaves[c.weight].kind)
	}
	for name, set := range map[string]func(e *entry, s string){
		"kind": func(e *entry, s string) { e.Kind = s }, "coarse": func(e *entry, s string) { e.Coarse = s },
		"concept": func(e *entry, s string) { e.Concept = s }, "style": func(e *entry, s string) { e.Style = s },
		"split": func(e *entry, s string) { e.Split = s },
	} {
		i := find([]string{name})
		if i < 0 {
			continue
		}
		if !isBytes(c.leaves[i].kind) || c.leaves[i].repeated {
			continue // another meaning of the word: it is kept as a column
		}
		c.texts[i] = set
	}
	for i, l := range c.leaves {
		_, used := c.texts[i]
		if used || l.repeated || i == c.image || i == c.path || i == c.caption || i == c.key || i == c.weight || isBytes(l.kind) && !l.text || len(c.others) == mostOthers {
			continue
		}
		c.others = append(c.others, i)
	}
	return c, nil
}

// set gives a row what a column says of it.
func (c parquetColumns) set(e *entry, i int, values []parquet.Value) {
	text := func() string {
		if len(values) == 0 || values[0].IsNull() {
			return ""
		}
		if isBytes(c.leaves[i].kind) {
			return string(values[0].ByteArray())
		}
		return values[0].String()
	}
	if i == c.path {
		e.Name = text()
	}
	if i == c.key {
		e.Key = text()
	}
	switch {
	case i == c.caption:
		for _, v := range values {
			if s := ""; !v.IsNull() {
				if s = string(v.ByteArray()); e.Caption == "" {
					e.Caption = s
				} else {
					e.Also = append(e.Also, s)
				}
			}
		}
	case i == c.weight:
		if len(values) > 0 && !values[0].IsNull() {
			e.Weight = number(values[0])
		}
	case c.texts[i] != nil:
		c.texts[i](e, text())
	case slices.Contains(c.others, i) && strings.EqualFold(c.leaves[i].name, exifColumn):
		e.addExif(plain(values))
	case slices.Contains(c.others, i):
		if v, keep := scalar(plain(values)); keep {
			if e.columns == nil {
				e.columns = map[string]any{}
			}
			e.columns[c.leaves[i].name] = v
		}
	}
}
