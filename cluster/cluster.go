// Package cluster joins the processes of a run that stand on several nodes, one process per node: it finds out which of
// them this one is, brings them together, notices when one is lost, and lets them agree on when to save and when to stop.
// It moves no tensors: XLA and NCCL do. It starts no processes: Slurm or Kubernetes do.
//
// Rank 0 serves a rendezvous, HTTP over TLS, that all ranks, rank 0 too, call:
//
//	place, err := cluster.Detect(cluster.Given{}, os.Getenv) // rank, number of nodes, address of rank 0
//	m, err := cluster.Join(ctx, place, options)             // blocks until all ranks are there
//	err = m.Same(ctx, "recipe", digest)                     // refuses, on every rank, by the names of those that differ
//	for ... {
//		action, err := m.Next(ctx)                          // before every update: nothing, save or stop, on all ranks alike
//		...
//	}
//	err = m.Leave(ctx)                                      // waits for the others
//	m.Close()
//
// What goes wrong on one rank is a *Failure on every rank: it names the rank and the host and has the exit code that all
// processes end with. A Member's Context ends with it, within Options.PeerTimeout of a process that is dead or stalled.
// Nothing is mended inside a process: all end, the launcher starts all again, and the run continues from its checkpoint.
//
// Ranks know each other by the job's secret: each end of a connection proves by TLS 1.3 that it has the private key that
// is derived from the secret. Who has not is refused, and its address is logged.
package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Exit codes that failures of a cluster lead to; they are those of the command line.
const (
	CodeError     = 1 // any error of one rank
	CodeMisplaced = 2 // ranks, counts or addresses that cannot be right
	CodeDiffers   = 4 // ranks that must be alike are not
	CodeLost      = 6 // a rank is dead, stalled or did not come: starting all again continues the run
)

// Failure ends a cluster. It is the same on every rank.
type Failure struct {
	Rank int    `json:"rank"` // that failed; -1 = no single one
	Host string `json:"host,omitempty"`
	Code int    `json:"code"` // exit code of every process
	Text string `json:"text"`
}

func (f *Failure) Error() string {
	if f.Rank < 0 {
		return f.Text
	}
	return rankName(f.Rank, f.Host) + ": " + f.Text
}

// rankName is how messages name a rank: "rank 3 (node4)".
func rankName(rank int, host string) string {
	if host == "" {
		return fmt.Sprintf("rank %d", rank)
	}
	return fmt.Sprintf("rank %d (%s)", rank, host)
}

// rankNames lists ranks with their hosts, and leaves out what lies between where they are many.
func rankNames(ranks []int, host func(rank int) string) string {
	const most = 8
	if len(ranks) == 1 {
		return rankName(ranks[0], host(ranks[0]))
	}
	var parts []string
	for i, r := range ranks {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(ranks)-most))
			break
		}
		parts = append(parts, strings.TrimPrefix(rankName(r, host(r)), "rank "))
	}
	return "ranks " + strings.Join(parts, ", ")
}

// ranges writes sorted ranks as "0-3, 5".
func ranges(ranks []int) string {
	slices.Sort(ranks)
	var parts []string
	for i := 0; i < len(ranks); {
		j := i
		for j+1 < len(ranks) && ranks[j+1] == ranks[j]+1 {
			j++
		}
		switch {
		case j == i:
			parts = append(parts, strconv.Itoa(ranks[i]))
		case j == i+1:
			parts = append(parts, strconv.Itoa(ranks[i]), strconv.Itoa(ranks[j]))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", ranks[i], ranks[j]))
		}
		i = j + 1
	}
	return strings.Join(parts, ", ")
}
