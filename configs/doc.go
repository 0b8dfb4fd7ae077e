// Package configs holds the recipes that come with fewstep and reads them: a recipe is everything that a run depends on besides
// the machine. Beside recipes, it reads the settings of a user, which belong to the machine and its owner.
//
// # One key's way
//
// A key is a field of [Recipe] (recipe.go) with its YAML name and a comment. [Load] begins with the paper's values (default.go),
// reads files (load.go, decode.go, stages.go), the environment (provenance.go) and overrides, and checks every value (check.go).
// [Recipe.Resolved] writes the canonical form, which a run directory keeps and whose hash names the recipe (canonical.go).
//
// The YAML files are part of the program (embedded.go): a CONFIG that is no file is looked up among them, mini/demo as
// configs/mini/demo.yaml. What the recipes over mini name is part of the commands, package assets.
//
// # Layers
//
// A value is given by the last of these layers that has it; 'fewstep plan CONFIG --where' tells which one that is.
//
//	defaults              built in
//	recipe                the YAML file of a run; it has no settings, and settings have no keys of recipes
//	settings file         settings.yaml in the user's configuration folder (~/.config/fewstep), or the file in FEWSTEP_SETTINGS
//	environment           FEWSTEP_BACKEND for backend, FEWSTEP_TRAIN_BATCH for a recipe's train.batch
//	flags, --set          of one command
//
// The package knows of no graph, device or run: everything else may import it.
package configs
