package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"fewstep/cluster"
	"fewstep/configs"
	"fewstep/internal/xla"
	"fewstep/train/cost"
)

// clusterDiagnosis is what `fewstep doctor --cluster --json` prints, on rank 0.
type clusterDiagnosis struct {
	Nodes    int          `json:"nodes"`
	Launcher string       `json:"launcher"`
	Address  string       `json:"rendezvous"`
	Ranks    []rankReport `json:"ranks"`
	Problems []string     `json:"problems"` // none: the ranks can train together
}

// rankReport is what a rank tells of itself.
type rankReport struct {
	Rank        int      `json:"rank"`
	Host        string   `json:"host"`
	Version     string   `json:"version"`
	Binary      string   `json:"binary_sha256"` // the first 16 digits, like all here
	Recipe      string   `json:"recipe_sha256,omitempty"`
	Backend     string   `json:"backend"` // kind and PJRT version; "" where none could be opened
	Plugin      string   `json:"plugin_sha256,omitempty"`
	Flags       string   `json:"xla_flags,omitempty"` // the user's
	Driver      string   `json:"driver,omitempty"`
	Devices     int      `json:"devices"`
	Device      string   `json:"device"`           // its model
	Promised    int      `json:"gpus_of_launcher"` // 0 = it does not tell
	CPUs        int      `json:"cpus"`
	Memory      int64    `json:"available_bytes"`
	Folder      string   `json:"folder"`
	Free        int64    `json:"free_bytes"`          // in Folder
	ClockAhead  float64  `json:"clock_ahead_seconds"` // of rank 0's clock before this one's
	Trip        float64  `json:"round_trip_seconds"`  // to rank 0
	Unreachable []string `json:"unreachable,omitempty"`
	Problems    []string `json:"problems,omitempty"`
}

// mostClockDifference is how far clocks may be apart before a person who reads logs of several nodes is misled.
const mostClockDifference = 2 * time.Second

// doctorCluster examines every rank and prints one table on rank 0. All ranks end with the same error.
func (a *app) doctorCluster(ctx context.Context, o *clusterFlags, dir, recipe string) error {
	place, err := o.place()
	if err != nil {
		return err
	}
	var config *configs.Recipe
	if recipe != "" {
		if config, err = a.recipe(recipe); err != nil {
			return err
		}
	}
	if place.Nodes == 1 && place.Address == "" {
		return withHint(usageErrorf("doctor --cluster on one node alone: no launcher and no --nodes say that there are others"), "start it on all nodes, as with: srun --ntasks-per-node=1 fewstep doctor --cluster")
	}
	m, err := a.join(ctx, place, o)
	if err != nil {
		return err
	}
	defer m.Close()
	d, err := a.examineCluster(ctx, m, place, dir, config)
	if err == nil {
		if m.Rank() == 0 {
			if a.json {
				err = a.writeJSON(d)
			} else {
				err = d.print(a.stdout)
			}
			if err != nil {
				return ofCluster(m.Fail(exitFailure, err))
			}
		}
		err = m.Leave(ctx)
	}
	if err != nil {
		return ofCluster(err)
	}
	if len(d.Problems) > 0 {
		return withCode(exitRefused, fmt.Errorf("the %d ranks cannot train together: %s", place.Nodes, strings.Join(d.Problems, "; ")))
	}
	return nil
}

// examineCluster makes every rank's report and compares them; the result is the same on all ranks.
func (a *app) examineCluster(ctx context.Context, m *cluster.Member, place cluster.Place, dir string, config *configs.Recipe) (*clusterDiagnosis, error) {
	m.Tell(cluster.Progress{Doing: "opening the backend"})
	mine, err := a.examineRank(ctx, m, place, dir, config)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(mine)
	if err != nil {
		return nil, m.Fail(exitFailure, err)
	}
	all, err := m.Gather(ctx, "reports", raw)
	if err != nil {
		return nil, err
	}
	d := &clusterDiagnosis{Nodes: place.Nodes, Launcher: place.Launcher, Address: place.Address, Problems: []string{}}
	for rank, raw := range all {
		var r rankReport
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, m.Fail(exitFailure, fmt.Errorf("the report of rank %d: %w", rank, err))
		}
		d.Ranks = append(d.Ranks, r)
		for _, p := range r.Problems {
			d.Problems = append(d.Problems, fmt.Sprintf("rank %d (%s): %s", rank, r.Host, p))
		}
		for _, u := range r.Unreachable {
			d.Problems = append(d.Problems, fmt.Sprintf("rank %d (%s) cannot connect to %s", rank, r.Host, u))
		}
	}
	differ, err := m.Compare(ctx, mine.facts()...)
	d.Problems = append(d.Problems, differ...)
	return d, err
}

// facts are what must be the same on all ranks.
func (r *rankReport) facts() []cluster.Fact {
	return []cluster.Fact{
		{Name: "fewstep's version", Value: r.Version}, {Name: "fewstep's binary", Value: r.Binary}, {Name: "recipe", Value: r.Recipe},
		{Name: "backend", Value: r.Backend}, {Name: "plugin", Value: r.Plugin}, {Name: "XLA_FLAGS", Value: r.Flags},
		{Name: "NVIDIA driver", Value: r.Driver}, {Name: "number of devices", Value: strconv.Itoa(r.Devices)}, {Name: "device", Value: r.Device},
	}
}

// examineRank examines this rank. Its own problems are in the report; an error is of the cluster.
func (a *app) examineRank(ctx context.Context, m *cluster.Member, place cluster.Place, dir string, config *configs.Recipe) (*rankReport, error) {
	r := &rankReport{Rank: m.Rank(), Host: m.Hosts()[m.Rank()], Version: readVersion().Version, Flags: os.Getenv("XLA_FLAGS"), Driver: xla.DriverVersion(), Promised: place.GPUs}
	problem := func(err error) {
		if err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
	}
	var err error
	r.Binary, err = binaryDigest()
	problem(err)
	if config != nil {
		r.Recipe = config.Hash()[:16]
	}
	own, err := examine(a.backend, a.memory)
	problem(err)
	r.CPUs, r.Memory = own.CPUs, own.Memory.AvailableBytes
	if c := own.Chosen; c != nil {
		r.Backend, r.Devices, r.Device = c.Kind+", "+c.Version, len(c.Devices), c.Model
		if c.Plugin != "" {
			r.Plugin, err = shortDigest(c.Plugin)
			problem(err)
		}
		seen := xla.GPUs()
		if c.Kind == xla.CUDA {
			seen = r.Devices
		}
		if a.backend == xla.Auto || a.backend == xla.CUDA {
			problem(promised(r.Promised, seen))
		}
	}
	ahead, trip, err := m.Clock(ctx)
	if err != nil {
		return nil, err
	}
	r.ClockAhead, r.Trip = ahead.Seconds(), trip.Seconds()
	problem(clocksApart(ahead, trip))
	if r.Unreachable, err = m.Unreachable(ctx); err != nil {
		return nil, err
	}
	shared, err := a.sharedFolder(ctx, m, dir)
	var f *cluster.Failure
	if errors.As(err, &f) {
		return nil, err
	}
	problem(err)
	r.Folder = shared
	r.Free, err = xla.DiskFree(shared)
	problem(err)
	if err == nil && m.Rank() == 0 && dir != "" && config != nil { // the folder is everybody's
		need, err := diskNeeded(config)
		if err != nil {
			a.log.Warn("how much the run writes is not known", "error", err)
		} else {
			problem(tooFull(shared, need, held(dir), r.Free))
		}
	}
	return r, nil
}

// promised says that a launcher's number of GPUs is not that which is seen; promised = 0 is not told.
func promised(promised, seen int) error {
	if promised == 0 || promised == seen {
		return nil
	}
	return fmt.Errorf("the launcher promises %d GPUs, and %d are seen", promised, seen)
}

// clocksApart says that a clock differs from rank 0's by more than the time that a question and its answer take explains.
func clocksApart(ahead, trip time.Duration) error {
	if ahead.Abs() <= mostClockDifference+trip {
		return nil
	}
	return fmt.Errorf("its clock and rank 0's differ by %v: let both follow a time server", ahead.Abs().Round(time.Millisecond))
}

// diskNeeded is what a run's checkpoints and results take, as 'fewstep plan' tells it. The encoded data set is not in it.
func diskNeeded(c *configs.Recipe) (int64, error) {
	m, _, err := planModel(c)
	if err != nil {
		return 0, err
	}
	rt, phases, err := planPhases(c, m, cost.Device{Devices: 1})
	if err != nil {
		return 0, err
	}
	rt.Close()
	p := planned{Phases: phases}
	p.add(c.Train.KeepCheckpoints, planSpeed{})
	return p.Disk, nil
}

// held is how many bytes a folder's files have; one that is not there has none.
func held(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil // what vanishes meanwhile does not count
	})
	return sum
}

// tooFull says that a run which needs so many bytes, and holds some already, has too few free ones.
func tooFull(folder string, need, held, free int64) error {
	if free >= need-held {
		return nil
	}
	return fmt.Errorf("%s has %s free, and the run's checkpoints and results take %s more, without the encoded data set: make room, or keep fewer with train.keep_checkpoints",
		folder, bytesText(free), bytesText(need-held))
}

// sharedFolder checks that dir, or the nearest folder above it that exists, is the same folder on all ranks and takes files
// of each. It returns that folder; a *cluster.Failure is of the cluster.
func (a *app) sharedFolder(ctx context.Context, m *cluster.Member, dir string) (string, error) {
	folder, err := existing(dir)
	name := func(rank int) string {
		return filepath.Join(folder, fmt.Sprintf(".fewstep-tmp-%s-%d", m.Session(), rank)) // a name that a run cleans away
	}
	if err == nil && dir != "" {
		err = os.WriteFile(name(m.Rank()), nil, 0o600)
		defer os.Remove(name(m.Rank()))
	}
	if _, gathered := m.Gather(ctx, "files in "+dir, nil); gathered != nil {
		return folder, gathered
	}
	if err == nil && dir != "" {
		err = within(10*time.Second, func() error { // network file systems remember for a while that a name was not there
			_, err := os.Stat(name(0))
			return err
		})
		if err != nil {
			err = fmt.Errorf("%s is not rank 0's: put the run directory on a file system that all nodes share", folder)
		}
	}
	_, gathered := m.Gather(ctx, "looking into "+dir, nil)
	if gathered != nil {
		return folder, gathered
	}
	return folder, err
}

// existing is dir or the nearest folder above it that exists; "" is the current one.
func existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return dir, err
	}
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir, nil
		} else if filepath.Dir(dir) == dir {
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}

// within tries until there is no error, or the time is over.
func within(limit time.Duration, try func() error) error {
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if err := try(); err == nil || time.Since(start) > limit {
			return err
		}
	}
}

// print writes the table for a person.
func (d *clusterDiagnosis) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "rank\thost\tfewstep\tbackend\tdevices\tdriver\tmemory free\tdisk free\tclock\tround trip\tproblems")
	for _, r := range d.Ranks {
		devices := "none"
		if r.Devices > 0 {
			devices = fmt.Sprintf("%d %s", r.Devices, r.Device)
		}
		dash := func(s string) string {
			if s == "" {
				return "-"
			}
			return s
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%+.1f ms\t%.1f ms\t%d\n", r.Rank, r.Host, r.Version, dash(r.Backend), devices, dash(r.Driver),
			bytesText(r.Memory), bytesText(r.Free), -1e3*r.ClockAhead, 1e3*r.Trip, len(r.Problems)+len(r.Unreachable))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d nodes by %s, rendezvous %s, files in %s\n", d.Nodes, d.Launcher, d.Address, d.Ranks[0].Folder)
	for _, p := range d.Problems {
		fmt.Fprintln(w, "problem:", p)
	}
	if len(d.Problems) == 0 {
		fmt.Fprintln(w, "every rank reaches every other, and nothing differs that must be the same")
	}
	return nil
}
