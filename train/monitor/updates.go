package monitor

// StudentMoved says whether a record is of an update in which the student moved: in adversarial phases a closed gate or a
// warm-up leaves it still.
func StudentMoved(r Record) bool {
	_, regressed := r.Values[Loss]
	_, played := r.Values[LossG]
	return r.Kind == KindStep && (regressed || played)
}

// Moves are the updates that a phase has made, by its records.
type Moves struct {
	Stage, Phase           string
	Student, Discriminator int
	Done                   bool // the phase's last record is there
}

// CountMoves counts the updates of each phase, in the order of their first records.
func CountMoves(records []Record) []Moves {
	var out []Moves
	for _, r := range records {
		if r.Kind != KindStep {
			continue
		}
		if n := len(out); n == 0 || out[n-1].Stage != r.Stage || out[n-1].Phase != r.Phase {
			out = append(out, Moves{Stage: r.Stage, Phase: r.Phase})
		}
		m := &out[len(out)-1]
		if StudentMoved(r) {
			m.Student++
		}
		if _, ok := r.Values[LossD]; ok {
			m.Discriminator++
		}
		m.Done = r.Samples >= r.Total
	}
	return out
}

// Few says whether the phase is done and its student has hardly moved: its model is nearly the one that it started from.
func (m Moves) Few() bool { return m.Done && m.Student < FewUpdates }
