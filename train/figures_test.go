package train

import (
	"testing"

	"fewstep/cluster"
	"fewstep/train/monitor"
)

func TestSlowest(t *testing.T) {
	told := func(seconds ...float64) (peers []cluster.Progress) {
		for _, s := range seconds {
			peers = append(peers, cluster.Progress{Figures: map[string]float64{monitor.DataSeconds: s / 4, monitor.TeacherSeconds: 3 * s / 4}})
		}
		return peers
	}
	for _, c := range []struct {
		peers []cluster.Progress
		want  int
	}{
		{told(1, 1.1, 1, 1.05), -1}, {told(1, 1.1, 2, 1), 2}, {told(1, 2), 1}, {told(1), -1}, {nil, -1},
		{told(0.001, 0.009), -1}, {append(told(1, 3), cluster.Progress{}), -1},
	} {
		if rank, times := slowest(c.peers); rank != c.want || rank >= 0 && times < slower {
			t.Errorf("%v: rank %d, %g times, want rank %d", c.peers, rank, times, c.want)
		}
	}
}
