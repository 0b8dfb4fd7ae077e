package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"fewstep/cluster"
	"fewstep/internal/xla"
	"fewstep/model/weights"
)

// clusterFlags say where this process stands among those of several nodes, where the launcher does not.
type clusterFlags struct {
	set                              *pflag.FlagSet
	launcher                         string
	nodes, rank                      int
	rendezvous, secret               string
	joinTimeout, peerTime, stallTime time.Duration
}

func (o *clusterFlags) add(f *pflag.FlagSet) {
	o.set = f
	f.StringVar(&o.launcher, "launcher", cluster.LauncherAuto, "who tells the ranks: "+strings.Join(cluster.Launchers(), "|"))
	f.IntVar(&o.nodes, "nodes", 0, "number of nodes, each with one process (default: the launcher's)")
	f.IntVar(&o.rank, "rank", 0, "of this process, from 0 (default: the launcher's)")
	f.StringVar(&o.rendezvous, "rendezvous", "", "host:port at which rank 0 serves and all ranks meet (default: the launcher's)")
	f.StringVar(&o.secret, "secret-file", "", "file with the job's secret (default: $"+cluster.SecretEnv+", or the file $"+cluster.SecretFileEnv+")")
	f.DurationVar(&o.joinTimeout, "join-timeout", cluster.JoinTimeout, "how long ranks wait for those that are late")
	f.DurationVar(&o.peerTime, "peer-timeout", cluster.PeerTimeout, "after how long a silent rank is lost, and all end with exit code 6")
	f.DurationVar(&o.stallTime, "stall-timeout", cluster.StallTime, "after how long a rank that lives, but whose work stands still, is lost, and all end with exit code 6")
}

// XLA's clients of several processes find each other through the ranks' store.
var _ xla.KeyValue = (*cluster.Store)(nil)

// clusterHelp is the part of a command's help that tells of ranks.
const clusterHelp = "Ranks come from the launcher, in this order: torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), SkyPilot, OpenMPI,\n" +
	"Slurm's srun; or from --nodes, --rank and --rendezvous. One process a node drives all of its GPUs. The ranks know each\n" +
	"other by a secret: put the same random text of 16 bytes or more into " + cluster.SecretEnv + " on all nodes."

// place tells where this process stands.
func (o *clusterFlags) place() (cluster.Place, error) {
	known := false
	for _, l := range cluster.Launchers() {
		known = known || l == o.launcher
	}
	if !known {
		return cluster.Place{}, withHint(usageErrorf("unknown launcher %q", o.launcher), "choose one of %s", strings.Join(cluster.Launchers(), ", "))
	}
	if o.joinTimeout <= 0 || o.peerTime < time.Second || o.stallTime < time.Second {
		return cluster.Place{}, usageErrorf("--join-timeout %v, --peer-timeout %v, --stall-timeout %v: they are positive, the latter two at least a second", o.joinTimeout, o.peerTime, o.stallTime)
	}
	p, err := cluster.Detect(cluster.Given{Launcher: o.launcher, Nodes: o.nodes, Rank: o.rank, Ranked: o.set.Changed("rank"), Address: o.rendezvous}, os.Getenv)
	return p, ofCluster(err)
}

// join brings the ranks together.
func (a *app) join(ctx context.Context, place cluster.Place, o *clusterFlags) (*cluster.Member, error) {
	secret, weak, err := cluster.Secret(o.secret, place, os.Getenv)
	if err != nil {
		return nil, ofCluster(err)
	}
	if weak {
		a.log.Warn("the ranks' secret is made of the job's number and user, which others can guess: set " + cluster.SecretEnv + " in the batch script, to the output of: openssl rand -hex 32")
	}
	m, err := cluster.Join(ctx, place, cluster.Options{Secret: secret, JoinTimeout: o.joinTimeout, PeerTimeout: o.peerTime, StallTime: o.stallTime, Log: a.log})
	return m, ofCluster(err)
}

// ofCluster gives the errors of a cluster their exit codes.
func ofCluster(err error) error {
	var f *cluster.Failure
	if !errors.As(err, &f) {
		return err
	}
	switch f.Code {
	case cluster.CodeLost:
		return withHint(withCode(exitLost, err), "start all ranks again: the run continues from its last checkpoint")
	case cluster.CodeDiffers:
		if f.Rank >= 0 { // one rank refuses: it has a hint of its own
			break
		}
		return withHint(withCode(exitRefused, err), "make the ranks alike: one binary, recipe, plugin and number of GPUs on all nodes")
	}
	return withCode(f.Code, err)
}

// binaryDigest identifies this program's file.
func binaryDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	return shortDigest(path)
}

// shortDigest is the beginning of a file's SHA-256.
func shortDigest(path string) (string, error) {
	sum, err := weights.HashFile(context.Background(), path)
	if err != nil {
		return "", err
	}
	return sum[:16], nil
}
