package configs

import (
	"reflect"
	"slices"
)

// Differs says whether a key may change when a run continues with another recipe. It is the tag "differs" of the key's field, or of
// the group around the field. A key without the tag may change only in stages and phases for which nothing was done yet.
type Differs string

const (
	Always Differs = "always" // it changes no result: another value may be given whenever the run continues
	Rate   Differs = "rate"   // of a phase: how fast it learns, not what; it may change while the phase goes on
	Fork   Differs = "fork"   // what things are called, shown or measured: a forked run may have another value
)

// MayDiffer lists the dotted keys with a tag; for Rate they are those of a phase, without its name.
func MayDiffer(tag Differs) (keys []string) {
	if tag == Rate {
		return tagged(reflect.TypeFor[Phase](), "", tag)
	}
	return tagged(reflect.TypeFor[Recipe](), "", tag)
}

func tagged(t reflect.Type, path string, tag Differs) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("yaml")
		if key == "" {
			continue
		}
		switch at := join(path, key); {
		case f.Tag.Get("differs") == string(tag):
			keys = append(keys, at)
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, tagged(f.Type, at, tag)...)
		}
	}
	return keys
}

// Without returns the recipe with no values for the keys of some tags; it shares its stages with c.
func (c *Recipe) Without(tags ...Differs) *Recipe {
	out := *c
	for _, tag := range tags {
		clearKeys(reflect.ValueOf(&out).Elem(), "", MayDiffer(tag))
	}
	return &out
}

func clearKeys(v reflect.Value, path string, keys []string) {
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		if key == "" {
			continue
		}
		switch at := join(path, key); {
		case slices.Contains(keys, at):
			v.Field(i).SetZero()
		case v.Field(i).Kind() == reflect.Struct:
			clearKeys(v.Field(i), at, keys)
		}
	}
}

// retired are keys that recipes had and that did nothing, or do nothing any more, with the reason. Reading one is no error, so
// that older run directories can be read; [Recipe.Retired] tells of it.
var retired = map[string]string{
	"train.log_every": "every update has its line in stats.jsonl",
}

// Retired names the keys of the recipe that do nothing, a sentence each, with file and line.
func (c *Recipe) Retired() []string { return c.retired }
