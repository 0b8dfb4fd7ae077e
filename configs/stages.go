package configs

import (
	"reflect"

	"go.yaml.in/yaml/v3"
)

// named is what stages and phases are to the decoder: entries of a list, which have names.
type named[T any] struct {
	what  string                         // one of them, as messages say it
	find  func(base []T, name string) *T // nil where there is none of that name
	name  func(entry *T) *string         // of an entry, to read and to set
	copy  func(entry T) T                // for an entry that starts from another
	fresh func(item *yaml.Node) T        // for an entry that starts from none
}

var (
	namedStages = named[Stage]{
		what: "stage", find: findStage, copy: copyStage,
		name:  func(s *Stage) *string { return &s.Name },
		fresh: func(*yaml.Node) Stage { return Stage{} },
	}
	namedPhases = named[Phase]{
		what: "phase", find: findPhase, copy: func(p Phase) Phase { return p },
		name:  func(p *Phase) *string { return &p.Name },
		fresh: func(item *yaml.Node) Phase { return newPhase(kindOf(item)) },
	}
)

// stages reads the key "stages" over the ladder base, in one of its three
// forms; see [Load].
func (d *decoder) stages(n *yaml.Node, path string, base []Stage) []Stage {
	if n.Kind == yaml.ScalarNode {
		if n.Value == "lightning" {
			return Lightning()
		}
		d.problem(n, path, "%s where the word lightning, a list of stages or stages by name are expected%s",
			describe(n), suggest(n.Value, []string{"lightning"}))
		return base
	}
	return readNamed(d, n, path, base, namedStages)
}

// phases reads the key "phases" over the phases base of a stage.
func (d *decoder) phases(n *yaml.Node, path string, base []Phase) []Phase {
	if n.Kind == yaml.ScalarNode {
		d.problem(n, path, "%s where a list of phases or phases by name are expected", describe(n))
		return base
	}
	return readNamed(d, n, path, base, namedPhases)
}

// readNamed reads entries over those of base: a mapping changes entries by name, a list replaces them all.
func readNamed[T any](d *decoder, n *yaml.Node, path string, base []T, of named[T]) []T {
	if n.Kind == yaml.MappingNode {
		for _, pair := range d.mapping(n, path) {
			at := join(path, pair.key)
			entry := of.find(base, pair.key)
			if entry == nil {
				d.problem(&yaml.Node{Line: pair.line}, at, "there is no such %s to change%s; write %ss as a list to add or leave out %ss",
					of.what, suggest(pair.key, of.names(base)), of.what, of.what)
				continue
			}
			d.structure(pair.value, at, reflect.ValueOf(entry).Elem())
		}
		return base
	}
	list := []T{}
	for i := range n.Content {
		item := follow(n.Content[i])
		name, like := d.entry(item, join(path, "-"))
		entry := of.fresh(item)
		if like != "" {
			if from := of.find(base, like); from != nil {
				entry = of.copy(*from)
			} else if item.Kind == yaml.ScalarNode || like != name {
				d.problem(item, join(path, like), "there is no such %s to start from%s", of.what, suggest(like, of.names(base)))
				continue
			}
		}
		*of.name(&entry) = name
		if item.Kind == yaml.MappingNode {
			d.structure(item, join(path, name), reflect.ValueOf(&entry).Elem(), "name", "like")
		}
		list = append(list, entry)
	}
	return list
}

func (of named[T]) names(base []T) []string {
	names := make([]string, len(base))
	for i := range base {
		names[i] = *of.name(&base[i])
	}
	return names
}

// entry returns the name of a list entry and the name it starts from.
func (d *decoder) entry(n *yaml.Node, path string) (name, like string) {
	if n.Kind == yaml.ScalarNode {
		return n.Value, n.Value
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, "%s where a name or keys with values are expected", describe(n))
		return "", ""
	}
	var head struct{ Name, Like string }
	_ = n.Decode(&head) // what cannot be read is told where its values are read
	name, like = head.Name, head.Like
	if name == "" {
		d.problem(n, path, "the entry has no name")
	}
	if like == "" {
		like = name
	}
	return name, like
}

// kindOf returns the kind that a phase entry states, if it does.
func kindOf(n *yaml.Node) string {
	var head struct{ Kind string }
	_ = n.Decode(&head) // as entry does
	return head.Kind
}

// newPhase holds the defaults of a phase that the ladder has no example of.
func newPhase(kind string) Phase {
	m := MethodOf(kind)
	if kind == "" {
		m = MethodOf(KindMSE)
	}
	p := m.Defaults
	p.Kind, p.Target, p.Teacher, p.Decay = kind, TargetFull, TeacherStage, DecayConstant
	return p
}

func copyStage(s Stage) Stage {
	s.Phases = append([]Phase(nil), s.Phases...)
	return s
}

func findStage(stages []Stage, name string) *Stage { return (&Recipe{Stages: stages}).Stage(name) }
func findPhase(phases []Phase, name string) *Phase { return (&Stage{Phases: phases}).Phase(name) }

func stageNames(stages []Stage) []string { return namedStages.names(stages) }
func phaseNames(phases []Phase) []string { return namedPhases.names(phases) }
