package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fewstep/train"
)

func newDataTrace(a *app) *cobra.Command {
	sample := int64(-1)
	var update, manifest, model, source string
	c := &cobra.Command{
		Use:   "trace RUN",
		Short: "Lead a run's training samples back to their shards, keys and hashes.",
		Long: "Leads a run's training samples back to their shards, keys and hashes.\n\n" +
			"A sample's image, caption and crop follow from its number, the seed and the data set, which must be as it was. With\n" +
			"--manifest it writes a parquet file of every image that the run was trained on, with its licence and how often it was\n" +
			"drawn: two people whose files are equal trained on the same images.",
		Example: "  fewstep data trace runs/demo --sample 1234\n  fewstep data trace runs/demo --update 8/lora-cond/17 --json\n  fewstep data trace runs/demo --manifest images.parquet",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if sample < 0 && update == "" && manifest == "" {
				return withHint(usageErrorf("nothing to trace"), "give --sample, --update or --manifest")
			}
			parts := strings.Split(update, "/")
			var number int64
			if update != "" {
				var err error
				if len(parts) != 3 {
					err = strconv.ErrSyntax
				} else {
					number, err = strconv.ParseInt(parts[2], 10, 64)
				}
				if err != nil {
					return withHint(usageErrorf("--update is %q", update), "write STAGE/PHASE/NUMBER, as 8/lora-cond/17")
				}
			}
			t, err := train.OpenTrace(cmd.Context(), args[0], model, source, a.log)
			if err != nil {
				return err
			}
			defer t.Close()
			first, end := sample, sample+1
			if update != "" {
				if first, end, err = t.Update(parts[0], parts[1], number); err != nil {
					return withCode(exitUsage, err)
				}
			}
			var traced []train.Traced
			for k := first; k >= 0 && k < end; k++ {
				x, err := t.Sample(k)
				if err != nil {
					return err
				}
				traced = append(traced, x)
			}
			listed := 0
			if manifest != "" {
				if listed, err = t.Manifest(cmd.Context(), manifest); err != nil {
					return err
				}
			}
			if a.json {
				return a.writeJSON(struct {
					Samples  []train.Traced `json:"samples"`
					Manifest string         `json:"manifest,omitempty"`
					Images   int            `json:"images,omitempty"`
				}{traced, manifest, listed})
			}
			return a.printTraced(traced, manifest, listed)
		},
	}
	c.Flags().Int64Var(&sample, "sample", -1, "number of a sample of the whole run, from 0 on")
	c.Flags().StringVar(&update, "update", "", "STAGE/PHASE/NUMBER: all samples of an update")
	c.Flags().StringVar(&manifest, "manifest", "", "write every image that was trained on to this parquet file")
	c.Flags().StringVar(&model, "model", "", "where the base model is, if not where the recipe says")
	c.Flags().StringVar(&source, "source", "", "where the data set is, if not where the recipe says")
	c.MarkFlagsMutuallyExclusive("sample", "update")
	return c
}

func (a *app) printTraced(traced []train.Traced, manifest string, listed int) error {
	w := &lines{to: a.stdout}
	for _, x := range traced {
		w.printf("sample %d, of update %d of %s/%s\n", x.Sample, x.Update, x.Stage, x.Phase)
		w.printf("  image    %s, row %d of the source\n", x.Key, x.Row)
		if x.Shard != "" {
			w.printf("  file     %s\n", x.Shard)
		}
		w.printf("  sha256   %s\n", x.SHA256)
		if x.License != "" {
			w.printf("  licence  %s\n", x.License)
		}
		dropped := ""
		if x.Dropped {
			dropped = " (not told: data.dropout)"
		}
		w.printf("  caption  %s%s\n", x.Caption, dropped)
		if x.Unseen != "" {
			w.printf("  unseen   of its %d tokens the text encoders do not see: %s\n", x.Tokens, x.Unseen)
		}
		w.printf("  shape    %s, told sizes %s\n", x.Shape, strings.Trim(fmt.Sprint(x.Sizes), "[]"))
	}
	if manifest != "" {
		w.printf("%s: %d images\n", manifest, listed)
	}
	return w.err
}
