package configs

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder writes YAML nodes over the fields of a Recipe and collects every
// problem with its place, so that one run shows all of them.
type decoder struct {
	file     string
	override bool // no line numbers: the text is one value
	problems []error
	retired  []string          // keys that do nothing any more, with their places
	layer    string            // what gives the values, where it is not the file; see Recipe.Provenance
	given    map[string]string // key to what gave its value
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	place := d.file
	if !d.override {
		place = fmt.Sprintf("%s:%d: %s", d.file, n.Line, path)
	}
	d.problems = append(d.problems, fmt.Errorf("%s: %s", place, fmt.Sprintf(format, args...)))
}

// structure writes a mapping over a struct; skip names keys to pass over.
func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value, skip ...string) {
	for _, pair := range d.mapping(n, path) {
		if slices.Contains(skip, pair.key) {
			continue
		}
		at := join(path, pair.key)
		field, ok := fieldOf(v, pair.key)
		switch why, was := retired[at]; {
		case ok:
			d.value(pair.value, at, field)
		case was:
			d.retired = append(d.retired, fmt.Sprintf("%s:%d: %s does nothing any more, because %s: leave it out", d.file, pair.line, at, why))
		default:
			d.problem(&yaml.Node{Line: pair.line}, at, "unknown key%s", suggest(pair.key, keysOf(v)))
		}
	}
}

type pair struct {
	key   string
	line  int
	value *yaml.Node
}

// mapping returns the entries of a mapping node in the order of their lines, with what << merges into it, complaining about
// anything else. Repeated keys, and mappings that merge themselves, are the library's to find.
func (d *decoder) mapping(n *yaml.Node, path string) []pair {
	n = follow(n)
	if path == "" {
		path = "recipe"
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "%s where keys with values are expected", describe(n))
		return nil
	}
	var all map[string]yaml.Node
	if err := n.Decode(&all); err != nil {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if several := new(yaml.TypeError); errors.As(err, &several) {
			text = strings.Join(several.Errors, "; ")
		}
		d.problem(n, path, "%s", text)
		return nil
	}
	lines := map[string]int{} // of the keys that stand here themselves; their values may begin below
	for i := 0; i+1 < len(n.Content); i += 2 {
		lines[n.Content[i].Value] = n.Content[i].Line
	}
	var pairs []pair
	for key, value := range all {
		p := pair{key, lines[key], &value}
		if p.line == 0 {
			p.line = value.Line
		}
		pairs = append(pairs, p)
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.value.Column, b.value.Column), cmp.Compare(a.key, b.key))
	})
	return pairs
}

// value writes a node over a field of one of the kinds that Recipe has.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	n = follow(n)
	if d.given != nil && v.Kind() != reflect.Struct {
		if d.given[path] = d.layer; d.layer == "" {
			d.given[path] = fmt.Sprintf("%s:%d", d.file, n.Line)
		}
	}
	switch target := v.Addr().Interface().(type) {
	case *[]Stage:
		*target = d.stages(n, path, *target)
		return
	case *[]Phase:
		*target = d.phases(n, path, *target)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, path, v)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.problem(n, path, "%s where a list is expected, such as [%s]", describe(n), exampleOf(v.Type().Elem().Kind()))
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			d.value(item, fmt.Sprintf("%s[%d]", path, i), list.Index(i))
		}
		v.Set(list)
	default:
		d.scalar(n, path, v)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.problem(n, path, "%s where %s is expected", describe(n), kindName(v.Kind()))
		return
	}
	text := n.Value
	number := strings.ReplaceAll(text, "_", "")
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return
	case reflect.Bool:
		if text == "true" || text == "false" {
			v.SetBool(text == "true")
			return
		}
	case reflect.Float64:
		if f, err := strconv.ParseFloat(number, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			v.SetFloat(f)
			return
		}
	case reflect.Int, reflect.Int64:
		if i, err := strconv.ParseInt(number, 10, 64); err == nil && !v.OverflowInt(i) {
			v.SetInt(i)
			return
		}
		if f, err := strconv.ParseFloat(number, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			v.SetInt(int64(f)) // 1e6
			return
		}
	case reflect.Uint64:
		if u, err := strconv.ParseUint(number, 10, 64); err == nil {
			v.SetUint(u)
			return
		}
	}
	d.problem(n, path, "%s where %s is expected", describe(n), kindName(v.Kind()))
}

// set writes a value at a dotted path, in every stage and phase it names.
func (d *decoder) set(keys []string, n *yaml.Node, c *Recipe) {
	if keys[0] != "stages" || len(keys) == 1 {
		d.setField(keys, n, reflect.ValueOf(c).Elem(), "")
		return
	}
	found := false
	for i := range c.Stages {
		s := &c.Stages[i]
		if keys[1] != s.Name && keys[1] != "*" {
			continue
		}
		found = true
		switch {
		case len(keys) == 2:
			d.structure(n, "stages."+s.Name, reflect.ValueOf(s).Elem())
		case keys[2] == "phases" && len(keys) > 3:
			d.setPhases(keys, n, s)
		default:
			d.setField(keys[2:], n, reflect.ValueOf(s).Elem(), "stages."+s.Name)
		}
	}
	if !found {
		d.problem(n, "", "there is no stage %q%s", keys[1], suggest(keys[1], stageNames(c.Stages)))
	}
}

func (d *decoder) setPhases(keys []string, n *yaml.Node, s *Stage) {
	found := false
	for i := range s.Phases {
		p := &s.Phases[i]
		if keys[3] != p.Name && (keys[3] != "*" || !p.Trains()) {
			continue
		}
		found = true
		path := "stages." + s.Name + ".phases." + p.Name
		if len(keys) == 4 {
			d.structure(n, path, reflect.ValueOf(p).Elem())
		} else {
			d.setField(keys[4:], n, reflect.ValueOf(p).Elem(), path)
		}
	}
	if !found && keys[1] != "*" {
		d.problem(n, "", "there is no phase %q in stage %q%s", keys[3], s.Name, suggest(keys[3], phaseNames(s.Phases)))
	}
}

func (d *decoder) setField(keys []string, n *yaml.Node, v reflect.Value, path string) {
	for i, key := range keys {
		if v.Kind() != reflect.Struct {
			d.problem(n, "", "%s has no keys below it", path)
			return
		}
		field, ok := fieldOf(v, key)
		if why, was := retired[join(path, key)]; was && !ok {
			d.retired = append(d.retired, fmt.Sprintf("%s: it does nothing any more, because %s: leave it out", d.file, why))
			return
		}
		if !ok {
			d.problem(n, "", "unknown key %s%s", join(path, strings.Join(keys[i:], ".")), suggest(key, keysOf(v)))
			return
		}
		v, path = field, join(path, key)
	}
	d.value(n, path, v)
}

// follow resolves a YAML alias.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func fieldOf(v reflect.Value, key string) (reflect.Value, bool) {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag == key && tag != "" {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keysOf(v reflect.Value) []string {
	var keys []string
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag != "" {
			keys = append(keys, tag)
		}
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys with values stand"
	case n.Kind == yaml.SequenceNode:
		return "a list stands"
	case n.Tag == "!!null":
		return "nothing stands"
	}
	return fmt.Sprintf("%q stands", n.Value)
}

func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number of at least 0"
	}
	return "text"
}

func exampleOf(k reflect.Kind) string {
	if k == reflect.String {
		return "a, b"
	}
	return "8, 4"
}
