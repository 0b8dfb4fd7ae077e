package train

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"fewstep/cluster"
	"fewstep/train/monitor"
)

// What ranks tell of themselves with their heartbeats after an update whose parts were measured: rank 0 adds the newest of all
// ranks to its own figures, as data_seconds_rank_1, and names a rank that is slower than the others. All ranks take the same
// time for an update, since they wait for each other: a slow one shows in what needs nobody else, its data and its teacher.

// rankFigures are told for every rank.
var rankFigures = []string{monitor.StepSeconds, monitor.DataSeconds, monitor.TeacherSeconds, monitor.WaitSeconds, monitor.MemoryPeak}

// exchange tells rank 0 what a measured update took here, and adds on rank 0 what all ranks told last.
func (p *phase) exchange(wall monitor.Values, took time.Duration) {
	m := p.member
	if _, measured := wall[monitor.DataSeconds]; m == nil || !measured {
		return
	}
	if waited := p.group.Waited(); waited > 0 {
		wall[monitor.WaitSeconds] = (waited - p.waited).Seconds()
		p.waited = waited
	}
	mine := maps.Clone(wall)
	mine[monitor.StepSeconds] = took.Seconds()
	m.Tell(cluster.Progress{Figures: mine})
	peers := m.Peers() // nil but on rank 0
	if peers != nil {
		peers[0].Figures = mine
	}
	for rank, peer := range peers {
		for _, name := range rankFigures {
			if v, ok := peer.Figures[name]; ok {
				wall[fmt.Sprintf("%s_rank_%d", name, rank)] = v
			}
		}
	}
	if rank, times := slowest(peers); rank >= 0 && rank == p.slow {
		p.log.Warn("a rank is slower than the others, which wait for it", "rank", rank, "host", m.Hosts()[rank], "times the median", fmt.Sprintf("%.1f", times),
			"data seconds", peers[rank].Figures[monitor.DataSeconds], "teacher seconds", peers[rank].Figures[monitor.TeacherSeconds])
		p.slow = -1
	} else {
		p.slow = rank
	}
}

// slower is how many times as long as the median a rank takes that is named.
const slower = 1.5

// slowest is the rank that takes much longer than the median for what needs nobody else, and how many times as long; else -1.
func slowest(peers []cluster.Progress) (rank int, times float64) {
	var own []float64
	for _, p := range peers {
		if len(p.Figures) == 0 {
			return -1, 0 // it has told nothing yet
		}
		own = append(own, p.Figures[monitor.DataSeconds]+p.Figures[monitor.TeacherSeconds])
	}
	if len(own) < 2 {
		return -1, 0
	}
	sorted := slices.Sorted(slices.Values(own))
	median := sorted[(len(sorted)-1)/2]
	rank = slices.Index(own, sorted[len(sorted)-1])
	if own[rank] < 0.01 || own[rank] < slower*median { // of a few milliseconds nobody waits long
		return -1, 0
	}
	return rank, own[rank] / max(median, 1e-6)
}
