package configs

import (
	"reflect"

	"go.yaml.in/yaml/v3"
)

// stages reads the key "stages" over the ladder base, in one of its three
// forms; see [Load].
func (d *decoder) stages(n *yaml.Node, path string, base []Stage) []Stage {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Value == "lightning" {
			return Lightning()
		}
		d.problem(n, path, "%s where the word lightning, a list of stages or stages by name are expected%s",
			describe(n), suggest(n.Value, []string{"lightning"}))
		return base
	case yaml.MappingNode:
		for _, pair := range d.mapping(n, path) {
			at := join(path, pair.key)
			s := findStage(base, pair.key)
			if s == nil {
				d.problem(&yaml.Node{Line: pair.line}, at, "there is no such stage to change%s; write stages as a list to add or leave out stages",
					suggest(pair.key, stageNames(base)))
				continue
			}
			d.structure(pair.value, at, reflect.ValueOf(s).Elem())
		}
		return base
	}
	list := []Stage{}
	for i := range n.Content {
		item := follow(n.Content[i])
		name, like := d.entry(item, join(path, "-"))
		var s Stage
		if like != "" {
			if from := findStage(base, like); from != nil {
				s = copyStage(*from)
			} else if item.Kind == yaml.ScalarNode || like != name {
				d.problem(item, join(path, like), "there is no such stage to start from%s", suggest(like, stageNames(base)))
				continue
			}
		}
		s.Name = name
		if item.Kind == yaml.MappingNode {
			d.structure(item, join(path, name), reflect.ValueOf(&s).Elem(), "name", "like")
		}
		list = append(list, s)
	}
	return list
}

// phases reads the key "phases" over the phases base of a stage.
func (d *decoder) phases(n *yaml.Node, path string, base []Phase) []Phase {
	switch n.Kind {
	case yaml.ScalarNode:
		d.problem(n, path, "%s where a list of phases or phases by name are expected", describe(n))
		return base
	case yaml.MappingNode:
		for _, pair := range d.mapping(n, path) {
			at := join(path, pair.key)
			p := findPhase(base, pair.key)
			if p == nil {
				d.problem(&yaml.Node{Line: pair.line}, at, "there is no such phase to change%s; write phases as a list to add or leave out phases",
					suggest(pair.key, phaseNames(base)))
				continue
			}
			d.structure(pair.value, at, reflect.ValueOf(p).Elem())
		}
		return base
	}
	list := []Phase{}
	for i := range n.Content {
		item := follow(n.Content[i])
		name, like := d.entry(item, join(path, "-"))
		p := newPhase(kindOf(item))
		if like != "" {
			if from := findPhase(base, like); from != nil {
				p = *from
			} else if item.Kind == yaml.ScalarNode || like != name {
				d.problem(item, join(path, like), "there is no such phase to start from%s", suggest(like, phaseNames(base)))
				continue
			}
		}
		p.Name = name
		if item.Kind == yaml.MappingNode {
			d.structure(item, join(path, name), reflect.ValueOf(&p).Elem(), "name", "like")
		}
		list = append(list, p)
	}
	return list
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

func stageNames(stages []Stage) []string {
	names := make([]string, len(stages))
	for i, s := range stages {
		names[i] = s.Name
	}
	return names
}

func phaseNames(phases []Phase) []string {
	names := make([]string, len(phases))
	for i, p := range phases {
		names[i] = p.Name
	}
	return names
}
