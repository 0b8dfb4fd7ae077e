package cluster

import "time"

// What ranks and the hub say to each other, as JSON. Calls that wait are answered within pollTime, if only with "not yet",
// and asked again; so a connection that says nothing for longer is dead.

const (
	pollTime    = 2 * time.Second
	answerTime  = pollTime + 5*time.Second // within which every call is answered
	mostContent = 256 << 20                // bytes of one message

	rankHeader    = "Fewstep-Rank"
	sessionHeader = "Fewstep-Session"
)

// hello is a rank's request to join.
type hello struct {
	ID      string `json:"id"` // of the process
	Rank    int    `json:"rank"`
	Nodes   int    `json:"nodes"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Attempt int    `json:"attempt"`
}

// welcome answers it. Exactly one of Session, Failure, Missing and Busy is set.
type welcome struct {
	Session string   `json:"session,omitempty"` // all are there
	Hosts   []string `json:"hosts,omitempty"`   // by rank, with Session
	Failure *Failure `json:"failure,omitempty"`
	Missing []int    `json:"missing,omitempty"` // not there yet
	Busy    string   `json:"busy,omitempty"`    // why this process must wait for another attempt
}

// beat is a rank's heartbeat; it asks for news.
type beat struct {
	Version  int      `json:"version"` // of the news that the rank has
	Progress Progress `json:"progress"`
}

// news is what has happened: the same for all ranks.
type news struct {
	Version int      `json:"version"`
	Failure *Failure `json:"failure,omitempty"`
	Round   *round   `json:"round,omitempty"`
}

// proposal asks that all ranks do something together.
type proposal struct {
	Action Action `json:"action"`
	Why    string `json:"why"`
}

// clock answers with rank 0's time; it also tells that this is a rendezvous of the job.
type clock struct {
	Session string    `json:"session"`
	Time    time.Time `json:"time"`
}

// vote answers a round: how far this rank is, which begins nothing more before the round is decided.
type vote struct {
	Round int      `json:"round"`
	At    position `json:"at"`
}

// gathered answers a call of gather: values of all ranks, or those that are awaited.
type gathered struct {
	Values  [][]byte `json:"values,omitempty"`
	Missing []int    `json:"missing,omitempty"`
}

// Progress is what a rank tells of itself with its heartbeats.
type Progress struct {
	Begun   int                `json:"begun"`             // updates
	Work    int                `json:"work,omitempty"`    // grows while what it does goes on
	Doing   string             `json:"doing,omitempty"`   // what takes time now, such as "compiling"
	Figures map[string]float64 `json:"figures,omitempty"` // by name, such as monitor.DataSeconds
}
