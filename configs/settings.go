package configs

import (
	"errors"
	"fewstep/internal/text"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// FileEnv names another settings file.
const FileEnv = "FEWSTEP_SETTINGS"

// Settings are a user's.
type Settings struct {
	Backend        string        `mapstructure:"backend"`         // where to compute
	MemoryFraction float64       `mapstructure:"memory_fraction"` // of a GPU's memory that may be used
	PJRTPlugin     string        `mapstructure:"pjrt_plugin"`     // a plugin file, before those that are found
	Python         string        `mapstructure:"python"`          // whose packages hold the CUDA plugin
	ProgramCache   string        `mapstructure:"program_cache"`   // folder of compiled programs; off = none
	ObjectStorage  ObjectStorage `mapstructure:"object_storage"`

	provenance []Provenance
}

// ObjectStorage is where s3:// addresses lead. Credentials are no settings: the usual variables and files hold them.
type ObjectStorage struct {
	Endpoint string `mapstructure:"endpoint"` // https://storage.example.com; empty = Amazon's
	Region   string `mapstructure:"region"`
}

// setting is what is known of a key.
type setting struct {
	key     string
	env     []string // variables that give it, the first before the others
	flag    string   // of the command line
	initial any
	read    bool // the code that it is for reads the first variable itself
}

var known = []setting{
	{"backend", []string{"FEWSTEP_BACKEND"}, "backend", "auto", false},
	{"memory_fraction", []string{"FEWSTEP_MEMORY_FRACTION"}, "memory-fraction", 0.92, false},
	{"pjrt_plugin", []string{"FEWSTEP_PJRT_PLUGIN"}, "", "", true},
	{"python", []string{"FEWSTEP_PYTHON"}, "", "", true},
	{"program_cache", []string{"FEWSTEP_PROGRAM_CACHE"}, "", "", true},
	{"object_storage.endpoint", []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL"}, "", "", true},
	{"object_storage.region", []string{"AWS_REGION", "AWS_DEFAULT_REGION"}, "", "", true},
}

// Path is where the settings file is looked for.
func Path() string {
	if path := os.Getenv(FileEnv); path != "" {
		return path
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "fewstep", "settings.yaml")
}

// Read reads the settings of this user and command. Unknown keys of the file are errors with their line. What other packages
// take from the environment they find there afterwards.
func Read(flags *pflag.FlagSet) (*Settings, error) {
	v := viper.New()
	for _, s := range known {
		v.SetDefault(s.key, s.initial)
		if err := v.BindEnv(append([]string{s.key}, s.env...)...); err != nil {
			return nil, err
		}
		if f := flags.Lookup(s.flag); f != nil {
			if err := v.BindPFlag(s.key, f); err != nil {
				return nil, err
			}
		}
	}
	path := Path()
	content, lines, err := settingsFile(path)
	if err != nil {
		return nil, err
	}
	if lines != nil {
		v.SetConfigType("yaml")
		if err := v.ReadConfig(strings.NewReader(content)); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	out := &Settings{}
	if err := v.UnmarshalExact(out); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	for _, s := range known {
		from, name := "default", environment(s)
		switch f := flags.Lookup(s.flag); {
		case f != nil && f.Changed:
			from = "--" + s.flag
		case name != "":
			from = "environment " + name
		case lines[s.key] > 0:
			from = fmt.Sprintf("%s:%d", path, lines[s.key])
			if s.read {
				if err := os.Setenv(s.env[0], v.GetString(s.key)); err != nil {
					return nil, err
				}
			}
		}
		out.provenance = append(out.provenance, Provenance{Key: s.key, Value: v.GetString(s.key), From: from})
	}
	return out, nil
}

// environment is the variable that gives a setting, "" where none does.
func environment(s setting) string {
	for _, name := range s.env {
		if os.Getenv(name) != "" {
			return name
		}
	}
	return ""
}

// settingsFile reads the settings file, and the lines of its keys, which viper does not know: what is wrong with the keys is said
// here. The lines are nil where there is no file.
func settingsFile(path string) (content string, lines map[string]int, err error) {
	content, err = text.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && os.Getenv(FileEnv) == "" || path == "" {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("settings: %w", err)
	}
	root, err := oneDocument(content)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	lines = map[string]int{}
	if root == nil {
		return content, lines, nil
	}
	return content, lines, linesBelow(root, "", path, lines)
}

// linesBelow collects the lines of the keys of a mapping.
func linesBelow(n *yaml.Node, above, path string, lines map[string]int) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: keys with values are expected here", path, n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := above+n.Content[i].Value, n.Content[i+1]
		switch {
		case slices.ContainsFunc(known, func(s setting) bool { return strings.HasPrefix(s.key, key+".") }):
			if err := linesBelow(value, key+".", path, lines); err != nil {
				return err
			}
		case !slices.ContainsFunc(known, func(s setting) bool { return s.key == key }):
			var names []string
			for _, s := range known {
				names = append(names, s.key)
			}
			return fmt.Errorf("%s:%d: unknown key %s%s", path, n.Content[i].Line, key, suggest(key, names))
		case lines[key] > 0:
			return fmt.Errorf("%s:%d: the key %s stands here a second time; keep one of them", path, n.Content[i].Line, key)
		default:
			lines[key] = n.Content[i].Line
		}
	}
	return nil
}

// Provenance tells which layer gave each setting.
func (s *Settings) Provenance() []Provenance { return s.provenance }
