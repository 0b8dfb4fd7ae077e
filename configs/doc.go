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
// # Why recipes do not go through viper
//
// Settings do: viper finds and merges their layers (settings.go). Recipes cannot, because viper folds the case of keys, and names
// of stages and phases are keys; because it forgets where a value stood, and errors and --where name file and line; because a
// later file replaces a list whole, and stages are changed by name; and because what it decodes with, mapstructure, cuts 1.5 to 1
// where a whole number is expected. So go.yaml.in/yaml/v3 reads a file into nodes and resolves aliases, merges and repeated keys,
// and decode.go writes the nodes over the fields of a Recipe. Other YAML files of keys without layers are read by [ReadStrict].
//
// # What may differ when a run continues
//
// Of a key, its field's tag differs says it; see keys.go.
//
// The package knows of no graph, device or run: everything else may import it.
package configs
