package train

import (
	"fmt"
	"strings"

	"fewstep/engine"
	"fewstep/model/nn"
	"fewstep/model/weights"
	"fewstep/train/rundir"
)

// A checkpoint of several processes has several files in place of each: every process writes the tensors of its part, those
// of the devices that it drives where state is dealt out. Any number of processes can read them.

// partName is the name of a file's part, counted from 0, as diffusers names the shards of a model.
func partName(file string, part, of int) string {
	if of == 1 {
		return file
	}
	base, _ := strings.CutSuffix(file, suffix)
	return fmt.Sprintf("%s-%05d-of-%05d%s", base, part+1, of, suffix)
}

const suffix = ".safetensors"

// openSaved opens the tensors that a checkpoint or result was given as a file, of which it may have parts.
func openSaved(s *rundir.Snapshot, file string) (weights.Source, error) {
	if s.SHA256(file) != "" {
		return weights.Open(s.Path(file))
	}
	var of int
	for _, name := range s.Files() {
		part, n := 0, 0
		base, _ := strings.CutSuffix(file, suffix)
		rest, ok := strings.CutPrefix(name, base+"-")
		if _, err := fmt.Sscanf(rest, "%05d-of-%05d"+suffix, &part, &n); ok && err == nil && name == partName(file, part-1, n) {
			of = n
		}
	}
	if of == 0 {
		return nil, fmt.Errorf("%s has no %s", s.Folder, file)
	}
	var paths []string
	for part := range of {
		name := partName(file, part, of)
		if s.SHA256(name) == "" {
			return nil, fmt.Errorf("%s has no %s: the checkpoint is not whole", s.Folder, name)
		}
		paths = append(paths, s.Path(name))
	}
	return weights.OpenParts(paths)
}

// part is what of a file this process writes.
func (p *phase) part(file string, specs []nn.Spec, o *engine.Optimizer, parameter func(nn.Spec) string) (name string, mine []nn.Spec) {
	for _, s := range specs {
		if o.Process(parameter(s), p.nodes()) == p.process() {
			mine = append(mine, s)
		}
	}
	return partName(file, p.process(), p.nodes()), mine
}
