package main

import (
	"fmt"

	"fewstep/configs"
	"fewstep/distill"
)

// loadRecipe reads the recipe that a user names, with what --set changes, and checks that its ladder can be climbed.
func loadRecipe(path string, set ...string) (*configs.Recipe, error) {
	c, err := configs.Load(path, set...)
	if err != nil {
		return nil, withCode(exitUsage, err)
	}
	if _, err := distill.NewLadder(c, distill.Epsilon); err != nil {
		return nil, withCode(exitUsage, fmt.Errorf("%s: %w", path, err))
	}
	return c, nil
}
