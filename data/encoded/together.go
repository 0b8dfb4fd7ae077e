package encoded

import (
	"context"
	"fmt"
	"time"

	"fewstep/data"

	"golang.org/x/sync/errgroup"
)

// Together is Run for several ranks at once, each with its own device. What is told is of all of them.
func Together(ctx context.Context, set *data.Set, each []Settings) (Report, error) {
	began := time.Now()
	reports := make([]Report, len(each))
	group, inside := errgroup.WithContext(ctx)
	for i, s := range each {
		group.Go(func() (err error) {
			reports[i], err = Run(inside, set, s)
			return err
		})
	}
	err := group.Wait()
	sum := reports[0]
	for _, r := range reports[1:] {
		sum.Made += r.Made
		sum.Images += r.Images
		sum.Encoding += r.Encoding
		sum.Waiting += r.Waiting
		sum.Bad, sum.Text, sum.TextBytes = max(sum.Bad, r.Bad), sum.Text || r.Text, max(sum.TextBytes, r.TextBytes)
	}
	if err != nil || len(each) == 1 {
		return sum, err
	}
	sum.Took = time.Since(began)
	return look(ctx, set, each[0], sum)
}

// look is a Run that makes nothing but what is left of its own rank, which is nothing, and the manifest, if all shards are there.
func look(ctx context.Context, set *data.Set, s Settings, before Report) (Report, error) {
	r, err := Run(ctx, set, s)
	before.Missing, before.Unfinished, before.Bad, before.Enlarged, before.Small = r.Missing, r.Unfinished, r.Bad, r.Enlarged, r.Small
	return before, err
}

// awaits is the pause between two looks for the shards of others.
var awaits = 5 * time.Second

// Await waits for the shards of other ranks, as long as more of them come at least every so often, and writes the manifest.
// r is what this rank's Run reported.
func Await(ctx context.Context, set *data.Set, s Settings, r Report, patience time.Duration) (Report, error) {
	came := time.Now()
	for r.Unfinished {
		select {
		case <-time.After(awaits):
		case <-ctx.Done():
			return r, ctx.Err()
		}
		missing := r.Missing
		var err error
		if r, err = look(ctx, set, s, r); err != nil {
			return r, err
		}
		if r.Missing < missing {
			came = time.Now()
		}
		if r.Unfinished && time.Since(came) > patience {
			return r, fmt.Errorf("%s: %d shards are left to other processes, and none came for %s; when they are done, the same command ends the work", s.Dir, r.Missing, patience)
		}
	}
	return r, nil
}
