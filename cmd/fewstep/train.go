package main

import (
	"errors"

	"github.com/spf13/cobra"

	"fewstep/internal/xla"
	"fewstep/train/base"
)

func init() { register(newTrain) }

func newTrain(a *app) *cobra.Command {
	var only string
	var dir, source string
	c := &cobra.Command{
		Use:   "train CONFIG",
		Short: "Train a small base model from nothing: autoencoder, CLIP pair and UNet, with the ordinary losses.",
		Long: "The model directory holds config files; weights are written beside them, each component when it is done.\n" +
			"A training that was stopped continues with the same command: its state is in the folder training there.\n" +
			"Parts whose recipe says 0 samples are skipped and read from the directory.",
		Example: "  fewstep train configs/mini/base.yaml\n  fewstep train configs/mini/base.yaml --only clip",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			config, err := base.Load(args[0])
			if err != nil {
				return withCode(exitUsage, err)
			}
			if dir != "" {
				config.Model = dir
			}
			if source != "" {
				config.Data = source
			}
			if only != "" {
				if err := config.Only(only); err != nil {
					return withCode(exitUsage, err)
				}
			}
			rt, err := a.openBackend(xla.Options{})
			if err != nil {
				return err
			}
			defer rt.Close()
			t := &base.Trainer{Config: config, Backend: rt.Backend, Log: a.log}
			err = t.Run(cmd.Context())
			if errors.Is(err, base.ErrInterrupted) {
				return withCode(exitInterrupted, err)
			}
			return err
		},
	}
	c.Flags().StringVar(&only, "only", "", "train one part alone: vae, clip or unet")
	c.Flags().StringVar(&dir, "model", "", "model directory, instead of the recipe's")
	c.Flags().StringVar(&source, "data", "", "captioned images, instead of the recipe's")
	return c
}
