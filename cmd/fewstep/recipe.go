package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fewstep/assets"
	"fewstep/configs"
	"fewstep/distill"
)

// configHelp says what the argument CONFIG of commands is.
const configHelp = "CONFIG is a recipe file, or the name of a recipe that comes with fewstep, such as mini/demo, where there is no file of that\n" +
	"path. The recipes over mini run from the program alone: its model and scenes are unpacked into the user's cache."

// loadRecipe reads the recipe that a user names, with what --set changes, and checks that its ladder can be climbed.
func loadRecipe(path string, set ...string) (*configs.Recipe, error) {
	c, err := configs.Load(path, set...)
	if err != nil {
		return nil, withCode(exitUsage, err)
	}
	if _, err := distill.NewLadder(c, distill.Epsilon); err != nil {
		return nil, withCode(exitUsage, fmt.Errorf("%s: %w", c.File(), err))
	}
	return c, nil
}

// recipe is loadRecipe for a command's CONFIG: it tells where the recipe comes from, and unpacks the assets that the recipe
// names, the program holds and no folder has.
func (a *app) recipe(path string, set ...string) (*configs.Recipe, error) {
	c, err := loadRecipe(path, set...)
	if err != nil {
		return nil, err
	}
	for _, text := range c.Retired() {
		a.log.Warn(text)
	}
	switch {
	case c.Embedded():
		a.log.Info("the recipe is one that comes with fewstep", "recipe", c.File())
	case configs.Shadowed(path):
		a.log.Info("the recipe is a file, and not the one of its name that comes with fewstep", "recipe", path)
	}
	return c, a.unpack(c.ModelPath(), c.SourcePath())
}

// unpack unpacks the assets if one of the paths is theirs and not there, or is in the folder they are unpacked to, where an
// older program may have written it.
func (a *app) unpack(paths ...string) error {
	root := configs.UnpackedRoot()
	for _, path := range paths {
		inside, err := filepath.Rel(root, path)
		if err != nil || !filepath.IsLocal(inside) {
			inside = path
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		if root == "" || !assets.Has(inside) {
			continue
		}
		written, err := assets.Unpack(root)
		if written > 0 {
			a.log.Info("unpacked the model mini and its scenes", "folder", root)
		}
		return err
	}
	return nil
}
