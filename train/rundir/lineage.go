package rundir

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"fewstep/internal/atomicfile"
)

// Lineage says what a run was made from. A continuation with other inputs is
// refused; another fewstep version or machine is only noted.
type Lineage struct {
	FewstepVersion string            `json:"fewstep_version"`
	BaseWeights    string            `json:"base_weights_sha256"`  // digest of the base model's weights
	DataManifest   string            `json:"data_manifest_sha256"` // digest of the data cache's manifest
	Extra          map[string]string `json:"extra,omitempty"`      // any other input that must not change
	Inputs         map[string]string `json:"inputs,omitempty"`     // digests of the other files that are read, by path in the model; runs of earlier versions lack them
	Forked         *Forked           `json:"forked,omitempty"`     // the run whose results this one began with; set by Fork
	Machine        map[string]string `json:"machine,omitempty"`    // what computes: results may differ in the last bits on another
}

// lineageFile is the content of lineage.json.
type lineageFile struct {
	Format       string `json:"format"`
	ConfigSHA256 string `json:"config_sha256"`
	// ConfigBefore is what it was before the last of Changes: a process that is
	// killed between the two files leaves a config.yaml with this digest.
	ConfigBefore string `json:"config_before_sha256,omitempty"`
	Lineage
	Changes []noted `json:"changes,omitempty"` // made later, in order
	SHA256  string  `json:"lineage_sha256,omitempty"`
}

// noted is a change of a setting or of the machine, made when the run had come to a position.
type noted struct {
	Position int64  `json:"position"`
	Key      string `json:"key"`
	Old      string `json:"old"`
	New      string `json:"new"`
}

// sum is the digest of the file without its own.
func (l lineageFile) sum() (string, error) {
	l.SHA256 = ""
	b, err := json.Marshal(l)
	return digest(b), err
}

func (d *Dir) writeLineage() (err error) {
	if d.lineage.SHA256, err = d.lineage.sum(); err != nil {
		return err
	}
	return writeJSON(d.Path(lineageName), d.lineage)
}

// readLineage reads lineage.json. Those of earlier versions have no digest of their own.
func (d *Dir) readLineage() error {
	if err := readJSON(d.Path(lineageName), &d.lineage); err != nil {
		return err
	}
	return d.lineage.check(d.Path(lineageName))
}

func (l lineageFile) check(path string) error {
	if sum, err := l.sum(); err != nil || l.SHA256 != "" && l.SHA256 != sum {
		return fmt.Errorf("%s does not match its own SHA-256: bring it back from a copy", path)
	}
	return nil
}

// Lineage is what the run was started from.
func (d *Dir) Lineage() Lineage { return d.lineage.Lineage }

// Config is the resolved configuration the run was started with, as YAML.
func (d *Dir) Config() ([]byte, error) { return os.ReadFile(d.Path(configName)) }

// resume compares a run directory with what it is to be continued with, and notes what may differ.
func (d *Dir) resume(config []byte, lineage Lineage, rules Rules) error {
	old, err := d.Config()
	if err != nil {
		return err
	}
	if err := d.readLineage(); err != nil {
		return err
	}
	before := old
	if rules.Normal != nil {
		before = rules.Normal(old)
	}
	changes, err := diffYAML(before, config, rules.MayDiffer)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Path(configName), err)
	}
	var settings, refused []Change
	for _, c := range changes {
		ok := false
		if rules.MayChange != nil {
			if ok, err = rules.MayChange(d, c.Key); err != nil {
				return err
			}
		}
		if ok {
			settings = append(settings, c)
		} else {
			refused = append(refused, c)
		}
	}
	if len(refused) > 0 {
		return newConfigMismatch(d.root, refused)
	}
	if changes := DiffLineage(d.lineage.Lineage, lineage); len(changes) > 0 {
		return &LineageMismatch{Dir: d.root, Changes: changes}
	}
	if was := d.lineage.FewstepVersion; was != lineage.FewstepVersion {
		d.notes = append(d.notes, fmt.Sprintf("run was started by fewstep %s and is continued by %s; results may differ in the last bits", was, lineage.FewstepVersion))
	}
	machine := d.machineChanges(lineage.Machine)
	for _, c := range machine {
		d.notes = append(d.notes, fmt.Sprintf("the run goes on with another %s (%s → %s); results may differ in the last bits", c.Key, c.Old, c.New))
	}
	return d.note(old, config, settings, machine)
}

// machineChanges compares what computes with what did last.
func (d *Dir) machineChanges(now map[string]string) (out []Change) {
	was := maps.Clone(d.lineage.Machine)
	for _, c := range d.lineage.Changes {
		if _, ok := was[c.Key]; ok {
			was[c.Key] = c.New
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if v, ok := now[key]; ok && v != was[key] {
			out = append(out, Change{key, was[key], v})
		}
	}
	return out
}

// note keeps changes in the lineage, and the settings in config.yaml.
func (d *Dir) note(old, config []byte, settings, machine []Change) error {
	l := &d.lineage
	broken := l.ConfigBefore != "" && digest(old) == l.ConfigBefore // a process was killed between the two files
	if len(settings)+len(machine) == 0 && !broken {
		return nil
	}
	if d.readOnly != nil {
		return d.readOnly
	}
	position, err := d.position()
	if err != nil {
		return err
	}
	for _, c := range slices.Concat(settings, machine) {
		n := noted{position, c.Key, c.Old, c.New}
		if !slices.Contains(l.Changes, n) {
			l.Changes = append(l.Changes, n)
		}
	}
	if broken {
		l.ConfigBefore, l.ConfigSHA256 = "", digest(old)
	}
	if len(settings) > 0 {
		l.ConfigBefore, l.ConfigSHA256 = digest(old), digest(config)
	}
	if err := d.writeLineage(); err != nil {
		return err
	}
	for _, c := range settings {
		d.notes = append(d.notes, fmt.Sprintf("setting changed from position %d on: %s", position, c))
	}
	if len(settings) == 0 {
		return nil
	}
	return atomicfile.WriteBytes(d.Path(configName), config)
}

// position is that of the newest snapshot, 0 where there is none.
func (d *Dir) position() (int64, error) {
	found, _, err := d.list()
	if err != nil {
		return 0, err
	}
	results, err := d.results()
	if err != nil {
		return 0, err
	}
	newest := int64(0)
	for _, s := range append(found, results...) {
		newest = max(newest, s.Position)
	}
	return newest, nil
}

// results are those with a readable manifest, by the names of their phases; their files are not looked at.
func (d *Dir) results() (out []*Snapshot, err error) {
	phases, err := d.phaseFolders()
	if err != nil {
		return nil, err
	}
	for _, phase := range phases {
		m, err := readManifest(phase + "/result")
		switch {
		case unsound(err) || err == nil && m.Point == nil:
		case err != nil:
			return nil, err
		default:
			out = append(out, &Snapshot{Point: *m.Point, Folder: phase + "/result", manifest: m})
		}
	}
	return out, nil
}
