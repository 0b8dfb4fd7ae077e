package distill

import (
	"fmt"

	"fewstep/model/process"
)

// StudentTimesteps returns the timesteps that a student of n steps trains at,
// largest first: explicit where given, else its grid for n > 2, else
// {T, 3T/4, T/2, T/4} (3.7). Every t is equally likely.
func StudentTimesteps(s *Schedule, n int, explicit []int) ([]int, error) {
	if n < 1 || n > s.T() {
		return nil, fmt.Errorf("student of %d steps; 1 to %d are possible", n, s.T())
	}
	if len(explicit) == 0 {
		if n <= 2 {
			return s.Grid(4), nil
		}
		return s.Grid(n), nil
	}
	for _, t := range explicit {
		if t < 1 || t > s.T() {
			return nil, fmt.Errorf("student timestep %d; timesteps run from 1 to %d", t, s.T())
		}
	}
	return append([]int(nil), explicit...), nil
}

// StudentNext returns t', where one network call of an n-step student takes
// x_t: the next entry of its grid, or max(t − T/n, 0) for the extra timesteps.
func StudentNext(s *Schedule, n, t int) int { return s.Next(n, t) }

// TeacherWalk returns the timesteps through which a teacher of m steps takes
// x_t to x_{t'}: t first, tNext last, in strides of T/m along its own grid and
// clamped at tNext. The number of network calls is its length less one. It is
// nil unless T >= t > tNext >= 0 and 1 <= m <= T.
func TeacherWalk(s *Schedule, t, tNext, m int) []int {
	if t > s.T() || tNext < 0 || tNext >= t || m < 1 || m > s.T() {
		return nil
	}
	walk := []int{t}
	k, onGrid := s.GridIndex(m, t)
	for calls := 1; ; calls++ {
		var next int
		if onGrid {
			next = process.RoundRatio(s.T()*(k-calls), m)
		} else {
			next = process.RoundRatio(t*m-s.T()*calls, m)
		}
		if next <= tNext {
			return append(walk, tNext)
		}
		walk = append(walk, next)
	}
}

// WalkCall is one teacher call for a whole batch. Sample i is fed to the
// network at timestep At[i] and moved to To[i] by x ← A[i]·x + B[i]·u. A sample
// whose walk is over keeps a valid At, with To = At, A = 1 and B = 0.
type WalkCall struct {
	At, To []int
	A, B   []float64
}

// BatchWalk lays out the teacher's calls for a batch whose samples start at
// t[i] and end at tNext[i]; there are as many as the longest walk has.
func BatchWalk(s *Schedule, pred Prediction, t, tNext []int, m int) ([]WalkCall, error) {
	if len(t) != len(tNext) {
		return nil, fmt.Errorf("teacher walk: %d starts and %d ends", len(t), len(tNext))
	}
	walks, calls := make([][]int, len(t)), 0
	for i := range t {
		walks[i] = TeacherWalk(s, t[i], tNext[i], m)
		if walks[i] == nil {
			return nil, fmt.Errorf("teacher walk: sample %d cannot go from t = %d to t = %d with a teacher of %d steps", i, t[i], tNext[i], m)
		}
		calls = max(calls, len(walks[i])-1)
	}
	batch := make([]WalkCall, calls)
	for c := range batch {
		call := WalkCall{At: make([]int, len(t)), To: make([]int, len(t)), A: make([]float64, len(t)), B: make([]float64, len(t))}
		for i, walk := range walks {
			if c+1 < len(walk) {
				call.At[i], call.To[i] = walk[c], walk[c+1]
			} else {
				last := walk[len(walk)-2]
				call.At[i], call.To[i] = last, last
			}
			call.A[i], call.B[i] = s.MoveCoefficients(pred, call.At[i], call.To[i])
		}
		batch[c] = call
	}
	return batch, nil
}
