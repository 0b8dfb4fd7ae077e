package configs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Resolved returns the recipe in its canonical form: YAML with every key in
// the order of the types, every stage and phase written out. Loading it gives
// the same recipe, whatever the defaults have become.
func (c *Recipe) Resolved() []byte {
	var n yaml.Node
	if err := n.Encode(c); err != nil {
		panic(err) // a struct of scalars and lists always encodes
	}
	flow(&n)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		panic(err) // writing to memory
	}
	e.Close()
	return b.Bytes()
}

// Hash is the SHA-256 of the canonical form, in hex.
func (c *Recipe) Hash() string {
	sum := sha256.Sum256(c.Resolved())
	return hex.EncodeToString(sum[:])
}

// flow puts lists of scalars on one line.
func flow(n *yaml.Node) {
	scalars := n.Kind == yaml.SequenceNode
	for _, c := range n.Content {
		flow(c)
		scalars = scalars && c.Kind == yaml.ScalarNode
	}
	if scalars {
		n.Style = yaml.FlowStyle
	}
}

// Diff names the keys in which two recipes differ, as "key: a → b" in the
// order of the canonical form; stages and phases are matched by name. It is
// empty for equal recipes.
func Diff(a, b *Recipe) []string {
	left, right := flatten(a), flatten(b)
	var out []string
	for _, key := range left.keys {
		l := left.values[key]
		// A key that only one side has lies in a stage or phase that only one
		// side has, which the list of names shows already.
		if r, ok := right.values[key]; ok && l != r {
			out = append(out, fmt.Sprintf("%s: %s → %s", key, l, r))
		}
	}
	return out
}

type flat struct {
	keys   []string
	values map[string]string
}

func flatten(c *Recipe) *flat {
	f := &flat{values: map[string]string{}}
	f.structure("", reflect.ValueOf(*c))
	return f
}

func (f *flat) add(key, value string) {
	f.keys = append(f.keys, key)
	f.values[key] = value
}

func (f *flat) structure(path string, v reflect.Value) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag.Get("yaml")
		if tag == "" {
			continue
		}
		key, field := join(path, tag), v.Field(i)
		switch list := field.Interface().(type) {
		case []Stage:
			f.add(key, "["+strings.Join(stageNames(list), ", ")+"]")
			for _, s := range list {
				f.structure(join(key, s.Name), reflect.ValueOf(s))
			}
		case []Phase:
			f.add(key, "["+strings.Join(phaseNames(list), ", ")+"]")
			for _, p := range list {
				f.structure(join(key, p.Name), reflect.ValueOf(p))
			}
		case []string:
			f.add(key, fmt.Sprintf("%q", list))
		default:
			if field.Kind() == reflect.Struct {
				f.structure(key, field)
			} else {
				f.add(key, fmt.Sprintf("%v", field.Interface()))
			}
		}
	}
}
