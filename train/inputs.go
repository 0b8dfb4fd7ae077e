package train

import "fewstep/model/bundle"

// checkWeights compares every component's weights files with its architecture, by their headers alone: what is
// missing, cut off or of another shape ends a run before its directory is made.
func (r *Run) checkWeights() error {
	b, err := bundle.Open(r.Pipeline.Dir, bundle.Options{})
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Complete(); err != nil {
		return err
	}
	return b.CheckAll()
}
