package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/configs"
	"fewstep/distill"
	"fewstep/engine"
	"fewstep/eval/report"
	"fewstep/eval/scheduler"
	"fewstep/model/hub"
	"fewstep/model/lora"
	"fewstep/model/pipeline"
	"fewstep/model/process"
	"fewstep/model/weights"

	"go.yaml.in/yaml/v3"
)

// RowSpec names a model and how to sample from it; a list of them is a rows file:
//
//	rows:
//	  - {name: SDXL, model: models/sdxl-base, steps: 32, guidance: 6, kind: teacher}
//	  - {name: Lightning, model: models/sdxl-base, unet: sdxl_lightning_4step_unet.safetensors, steps: 4, sampler: euler}
//	  - {name: Lightning LoRA, model: models/sdxl-base, lora: sdxl_lightning_4step_lora.safetensors, steps: 4, sampler: euler}
//	  - {name: Turbo, model: models/sdxl-turbo, steps: [1, 4], sampler: euler-ancestral}
//	  - {name: LCM LoRA, model: models/sdxl-base, lora: lcm-lora-sdxl.safetensors, steps: [4, 8], sampler: lcm}
//	  - {name: drawn elsewhere, images: pictures/, steps: 4}
//	  - {run: runs/demo}
//
// Paths are relative to the file; models on the hub, hf:OWNER/NAME, are fetched by the command line.
type RowSpec struct {
	Name       string   `yaml:"name"`       // in the table; default: what the file calls itself, or its name
	Model      string   `yaml:"model"`      // diffusers directory; default: the evaluation's
	UNet       string   `yaml:"unet"`       // state dict in place of the directory's UNet
	LoRA       string   `yaml:"lora"`       // merged into the UNet
	Images     string   `yaml:"images"`     // folder of images made elsewhere, one per caption, instead of a model
	Run        string   `yaml:"run"`        // every exported model of a run, instead of all the above
	Steps      intList  `yaml:"steps"`      // one count or several; default: what the file says it is made for
	Guidance   *float64 `yaml:"guidance"`   // default: the file's, else none
	Sampler    string   `yaml:"sampler"`    // trained, euler, euler-leading, euler-ancestral, ddim, ddim-leading or lcm; default: trained
	Prediction string   `yaml:"prediction"` // epsilon or sample; default: the file's, else the directory's
	Kind       string   `yaml:"kind"`       // teacher (ratios refer to it), undistilled, full or lora; default: by the keys above
}

// intList reads a number or a list of numbers.
type intList []int

func (l *intList) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return n.Decode((*[]int)(l))
	}
	var one int
	err := n.Decode(&one)
	*l = intList{one}
	return err
}

// ReadRows reads a rows file. Unknown keys are errors.
func ReadRows(path string) ([]RowSpec, error) {
	var file struct {
		Rows []RowSpec `yaml:"rows"`
	}
	if err := configs.ReadStrict(path, &file); err != nil {
		return nil, err
	}
	if len(file.Rows) == 0 {
		return nil, fmt.Errorf("%s: it names no rows", path)
	}
	for i := range file.Rows {
		r := &file.Rows[i]
		for _, p := range []*string{&r.Model, &r.UNet, &r.LoRA, &r.Images, &r.Run} {
			if *p != "" && !filepath.IsAbs(*p) && !strings.HasPrefix(*p, hub.Prefix) {
				*p = filepath.Join(filepath.Dir(path), *p)
			}
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%s: row %d: %w", path, i+1, err)
		}
	}
	return file.Rows, nil
}

func (r *RowSpec) check() error {
	weights := r.Model != "" || r.UNet != "" || r.LoRA != ""
	switch {
	case r.Run != "" && (weights || r.Images != "" || r.Name != "" || len(r.Steps) > 0 || r.Guidance != nil || r.Sampler != "" || r.Prediction != "" || r.Kind != ""):
		return errors.New("a row of a run has no other keys: its exported files say how they are sampled")
	case r.Images != "" && weights:
		return errors.New("images and a model exclude each other")
	case r.Images != "" && (r.Name == "" || len(r.Steps) != 1):
		return errors.New("images made elsewhere need a name and the steps they were made in")
	case r.Guidance != nil && *r.Guidance < 0:
		return fmt.Errorf("guidance %g is negative", *r.Guidance)
	case r.Kind != "" && !slices.Contains([]report.Kind{report.Teacher, report.Undistilled, report.Full, report.LoRA}, report.Kind(r.Kind)):
		return fmt.Errorf("kind %q is none of teacher, undistilled, full and lora", r.Kind)
	}
	if _, err := scheduler.Parse(r.Sampler); err != nil {
		return err
	}
	for _, n := range r.Steps {
		if n < 1 {
			return fmt.Errorf("%d steps; at least 1 is needed", n)
		}
	}
	return nil
}

// Rows turns row specifications into entries. Weights are read when an entry is measured; here only what the files say
// about themselves, and their hashes.
func (s *Spec) Rows(specs []RowSpec) ([]Entry, error) {
	var out []Entry
	for _, r := range specs {
		entries, err := s.entriesOf(r)
		if err != nil {
			return nil, err
		}
		out = append(out, entries...)
	}
	for i, e := range out {
		if slices.ContainsFunc(out[:i], func(o Entry) bool { return o.fileName() == e.fileName() }) {
			return nil, fmt.Errorf("two rows are %s at %d steps and %d calls: give one another name", e.Model, e.Steps, e.calls())
		}
	}
	return out, nil
}

func (s *Spec) entriesOf(r RowSpec) ([]Entry, error) {
	if r.Run != "" {
		return s.runEntries(r.Run)
	}
	guidance := func(otherwise float64) float64 {
		if r.Guidance != nil {
			return *r.Guidance
		}
		return otherwise
	}
	if r.Images != "" {
		e := Entry{Model: r.Name, Kind: report.Kind(cmp.Or(r.Kind, string(report.Full))), Steps: r.Steps[0], Guidance: guidance(0), Images: r.Images}
		var err error
		e.Digest, e.Files, err = folderState(r.Images)
		return []Entry{e}, err
	}
	e := Entry{Model: r.Name, Kind: report.Full, Sampler: scheduler.Name(r.Sampler)}
	p := s.Pipeline
	if r.Model != "" && !sameFolder(r.Model, p.Dir) {
		var err error
		if p, err = pipeline.Open(r.Model); err != nil {
			return nil, err
		}
		e.Pipeline = p
	}
	if r.LoRA != "" {
		var err error
		if r.LoRA, err = lora.File(r.LoRA); err != nil {
			return nil, err
		}
	}
	said, err := describe(p, r.UNet, r.LoRA)
	if err != nil {
		return nil, err
	}
	e.Files, e.Prediction, e.Schedule, e.Guidance = said.files, said.prediction, said.schedule, guidance(said.guidance)
	steps := []int(r.Steps)
	switch {
	case r.LoRA != "":
		e.Kind = report.LoRA
	case said.steps == 0 && r.UNet == "" && e.Pipeline == nil:
		e.Kind = report.Undistilled
	}
	if r.Kind != "" {
		e.Kind = report.Kind(r.Kind)
	}
	if len(steps) == 0 {
		if said.steps == 0 {
			return nil, fmt.Errorf("%s: the file does not say for how many steps it is made; give steps", cmp.Or(r.LoRA, r.UNet, p.Dir))
		}
		steps = []int{said.steps}
	}
	if r.Prediction != "" {
		if e.Prediction, err = process.ParsePrediction(r.Prediction); err != nil {
			return nil, err
		}
	}
	if e.Model == "" {
		e.Model = cmp.Or(said.title, strings.TrimSuffix(filepath.Base(cmp.Or(r.LoRA, r.UNet, p.Dir)), ".safetensors"))
	}
	if e.Digest, err = digest(said.files); err != nil {
		return nil, err
	}
	how := fmt.Sprintf("sampled by %s, guidance %g, predicts %s", cmp.Or(string(e.Sampler), string(scheduler.Trained)), e.Guidance, e.Prediction)
	for i := range e.Files {
		e.Files[i].Note = how
	}
	e.Load = s.Loader(p, r.UNet, r.LoRA)
	var out []Entry
	for _, n := range steps {
		e.Steps = n
		out = append(out, e)
	}
	return out, nil
}

// folderState tells a folder of images from what it was before: by the names, sizes and times of its files.
func folderState(dir string) (sum string, files []report.Artifact, err error) {
	paths, err := pictures(dir)
	if err != nil {
		return "", nil, err
	}
	var about []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", nil, err
		}
		about = append(about, fmt.Sprint(path, info.Size(), info.ModTime().UnixNano()))
	}
	sum, err = digest(about)
	return sum, []report.Artifact{{Name: "images", Path: dir, Note: fmt.Sprintf("%d files, made elsewhere", len(paths))}}, err
}

func sameFolder(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// Loader reads a UNet, with another state dict or a LoRA where they are named, and puts it on a device.
func (s *Spec) Loader(p *pipeline.Pipeline, unetFile, loraFile string) Loader {
	return func(e *engine.Engine) (*engine.Params, func(), error) {
		specs, err := p.UNetSpecs(e.Backend, nil)
		if err != nil {
			return nil, nil, err
		}
		w, err := p.LoadUNet(specs, unetFile, loraFile)
		if err != nil {
			return nil, nil, err
		}
		defer w.Close()
		if w.ChangesText() {
			w.Notes = append(w.Notes, loraFile+": prompts are encoded without its changes of the text encoders: merge it with 'fewstep lora merge' and evaluate the model")
		}
		if e == s.drawer() { // one device tells
			for _, note := range w.Notes {
				s.warn("%s", note)
			}
		}
		m, err := e.LoadFunc(specs, w.Value, nil)
		if err != nil {
			return nil, nil, fmt.Errorf("%s/unet: %w", p.Dir, err)
		}
		return m, m.FreeAll, nil
	}
}

// description is what the files of a model say about it.
type description struct {
	files      []report.Artifact
	prediction distill.Prediction
	schedule   *distill.Schedule
	steps      int
	guidance   float64
	title      string
}

func describe(p *pipeline.Pipeline, unetFile, loraFile string) (description, error) {
	d := description{prediction: p.Prediction, schedule: p.Schedule}
	unets := []string{unetFile}
	if unetFile == "" {
		unets[0] = p.Dir
		if info, err := os.Stat(p.Dir); err == nil && info.IsDir() {
			if unets, err = weights.ModelFiles(filepath.Join(p.Dir, "unet")); err != nil {
				return d, err
			}
			slices.Sort(unets)
		}
	}
	for _, path := range unets {
		var predicts *pipeline.Pipeline
		if unetFile != "" {
			predicts = p
		}
		if err := d.add("UNet", path, len(unets) == 1, predicts); err != nil {
			return d, err
		}
	}
	if loraFile != "" {
		return d, d.add("LoRA", loraFile, true, nil)
	}
	return d, nil
}

// add hashes a file and takes over what it says about sampling, unless it is a shard; and, where it is a UNet's in place of
// a pipeline's own, about what it predicts.
func (d *description) add(role, path string, listen bool, in *pipeline.Pipeline) error {
	sum, err := weights.HashFile(context.Background(), path)
	if err != nil {
		return err
	}
	d.files = append(d.files, report.Artifact{Name: role, Path: path, SHA256: sum})
	if !listen {
		return nil
	}
	f, err := weights.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	spec, _ := weights.ParseModelSpec(f.Metadata())
	if in != nil {
		if d.prediction, d.schedule, _, err = in.Predicts(path, f.Names(), f.Metadata()); err != nil {
			return err
		}
	}
	if spec.SamplerSteps > 0 {
		d.steps, d.guidance = spec.SamplerSteps, spec.GuidanceScale
	}
	if spec.Title != "" {
		d.title = spec.Title
	}
	return nil
}
