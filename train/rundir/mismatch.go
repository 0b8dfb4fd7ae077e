package rundir

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Change is one key whose value differs; Old or New is "(absent)" where the
// key is missing.
type Change struct{ Key, Old, New string }

func (c Change) String() string { return fmt.Sprintf("%s: %s → %s", c.Key, c.Old, c.New) }

// ConfigMismatch says that a run directory was made by another config.
type ConfigMismatch struct {
	Dir     string
	Keys    []string // key paths such as stages.8to4.phases.full.lr or seeds[2], in order
	Changes []Change // the same keys with old and new values
}

func newConfigMismatch(dir string, changes []Change) *ConfigMismatch {
	e := &ConfigMismatch{Dir: dir, Changes: changes}
	for _, c := range changes {
		e.Keys = append(e.Keys, c.Key)
	}
	return e
}

func (e *ConfigMismatch) Error() string {
	return fmt.Sprintf("run directory %s was made by another config; use a new directory or set these keys back:%s", e.Dir, list(e.Changes))
}

// LineageMismatch says that a run directory was made from other base weights
// or other data.
type LineageMismatch struct {
	Dir     string
	Changes []Change
}

func (e *LineageMismatch) Error() string {
	return fmt.Sprintf("run directory %s was made from other inputs; use a new directory or give the same inputs:%s", e.Dir, list(e.Changes))
}

func list(changes []Change) string {
	const most = 20
	var b strings.Builder
	for i, c := range changes {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(changes)-most)
			break
		}
		b.WriteString("\n  " + c.String())
	}
	return b.String()
}

// DiffLineage names the inputs in which two lineages differ.
func DiffLineage(old, new Lineage) []Change {
	tree := func(l Lineage) map[string]any {
		t := map[string]any{"base_weights_sha256": l.BaseWeights, "data_manifest_sha256": l.DataManifest}
		for k, v := range l.Extra {
			t["extra."+k] = v
		}
		if old.Inputs != nil && new.Inputs != nil { // an earlier version did not know them
			for k, v := range l.Inputs {
				t["inputs."+k] = v
			}
		}
		return t
	}
	return diffTrees("", tree(old), tree(new), nil, nil)
}

func parseYAML(b []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// diffYAML compares two YAML documents as trees: order of keys, comments and
// number spelling (1e-5 or 0.00001) do not matter.
func diffYAML(old, new []byte, mayDiffer []string) ([]Change, error) {
	o, err := parseYAML(old)
	if err != nil {
		return nil, err
	}
	n, err := parseYAML(new)
	if err != nil {
		return nil, err
	}
	return diffTrees("", o, n, mayDiffer, nil), nil
}

type absent struct{}

func diffTrees(key string, old, new any, mayDiffer []string, out []Change) []Change {
	if key != "" && slices.Contains(mayDiffer, key) {
		return out
	}
	om, oIsMap := old.(map[string]any)
	nm, nIsMap := new.(map[string]any)
	if oIsMap && nIsMap {
		keys := slices.Collect(maps.Keys(om))
		for k := range nm {
			if _, both := om[k]; !both {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			path := k
			if key != "" {
				path = key + "." + k
			}
			out = diffTrees(path, lookup(om, k), lookup(nm, k), mayDiffer, out)
		}
		return out
	}
	ol, oIsList := old.([]any)
	nl, nIsList := new.([]any)
	if oIsList && nIsList {
		on, nn := names(ol), names(nl)
		if on != nil && nn != nil {
			return diffNamed(key, ol, nl, on, nn, mayDiffer, out)
		}
		at := func(l []any, i int) any {
			if i < len(l) {
				return l[i]
			}
			return absent{}
		}
		for i := range max(len(ol), len(nl)) {
			out = diffTrees(fmt.Sprintf("%s[%d]", key, i), at(ol, i), at(nl, i), mayDiffer, out)
		}
		return out
	}
	if o, n := spell(old), spell(new); !sameScalar(old, new) && (o != n || fmt.Sprintf("%T", old) != fmt.Sprintf("%T", new)) {
		out = append(out, Change{Key: key, Old: o, New: n})
	}
	return out
}

// names are the values of the key "name" where every element of a list is a
// mapping with another one, else nil.
func names(list []any) []string {
	var out []string
	for _, e := range list {
		m, _ := e.(map[string]any)
		name, ok := m["name"].(string)
		if !ok || slices.Contains(out, name) {
			return nil
		}
		out = append(out, name)
	}
	return out
}

// diffNamed compares lists of named mappings by name, so that a stage put in
// or left out is one change: stages.8to4.phases.full.lr.
func diffNamed(key string, old, new []any, oldNames, newNames []string, mayDiffer []string, out []Change) []Change {
	before := len(out)
	for i, name := range oldNames {
		var other any = absent{}
		if j := slices.Index(newNames, name); j >= 0 {
			other = new[j]
		}
		out = diffTrees(key+"."+name, old[i], other, mayDiffer, out)
	}
	for j, name := range newNames {
		if !slices.Contains(oldNames, name) {
			out = diffTrees(key+"."+name, absent{}, new[j], mayDiffer, out)
		}
	}
	if len(out) == before && !slices.Equal(oldNames, newNames) {
		out = append(out, Change{Key: key, Old: strings.Join(oldNames, ", "), New: strings.Join(newNames, ", ")})
	}
	return out
}

func lookup(m map[string]any, k string) any {
	if v, ok := m[k]; ok {
		return v
	}
	return absent{}
}

// sameScalar reports whether both are numbers of the same value.
func sameScalar(a, b any) bool {
	x, okX := number(a)
	y, okY := number(b)
	return okX && okY && (x == y || math.IsNaN(x) && math.IsNaN(y))
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// spell writes a value on one line.
func spell(v any) string {
	switch v := v.(type) {
	case absent:
		return "(absent)"
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("%q", v)
	case map[string]any, []any:
		node := &yaml.Node{}
		if err := node.Encode(v); err == nil {
			node.Style = yaml.FlowStyle
			if b, err := yaml.Marshal(node); err == nil {
				s := strings.Join(strings.Fields(string(b)), " ")
				if len(s) > 80 {
					s = s[:77] + "..."
				}
				return s
			}
		}
	}
	return fmt.Sprint(v)
}
