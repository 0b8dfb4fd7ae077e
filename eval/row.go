package eval

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"fewstep/eval/report"
	"fewstep/eval/sample"
	"fewstep/eval/scheduler"
	"fewstep/model/pipeline"
)

// saved is the form in which a row is kept.
type saved struct {
	Digest string  `json:"digest"`
	Values []Value `json:"values"`
	Column Column  `json:"column"`
}

// runner measures entries.
type runner struct {
	spec     *Spec
	protocol *protocol
	rows     int // of the table
	at       int // row

	saving     sync.Mutex // rows are measured, and then saved, several at once
	teacher    []Features // of the teacher's images, once they are known; see Judge.Pack
	teacherSum string     // which these are

	lanes []*lane // the devices that draw
}

func (r *runner) free() {
	for _, l := range r.lanes {
		l.free()
	}
}

// row draws an entry's images and looks at them; measure then makes their numbers, beside whatever is drawn next. Of an
// entry that was measured before it returns what was saved.
func (r *runner) row(ctx context.Context, e Entry) (measure func() (*saved, error), err error) {
	p := r.protocol
	r.at++
	sum, err := r.digest(e)
	if err != nil {
		return nil, err
	}
	teaches := e.Kind == report.Teacher && r.teacherSum == ""
	name := e.fileName()
	note := Progress{Model: e.Model, Steps: e.Steps, Calls: e.calls(), Row: r.at, Rows: r.rows, Total: len(p.prompts)}
	done := func(n int) {
		note.Done = n
		r.spec.report(note)
	}
	if r.spec.Load != nil {
		if raw, ok := r.spec.Load(name + ".json"); ok {
			var s saved
			if json.Unmarshal(raw, &s) == nil && s.Digest == sum && (!teaches || r.recall(name, sum)) {
				note.Saved = true
				done(note.Total)
				return func() (*saved, error) { return &s, nil }, nil
			}
		}
	}
	s := &saved{Digest: sum, Column: Column{Model: e.Model, Kind: e.Kind, Steps: e.Steps, Calls: e.calls()}}
	features := make([]Features, 0, len(p.prompts))
	look := func(b batch) error {
		f, err := p.judge.Features(b.images)
		if err != nil {
			return fmt.Errorf("images from %d on: %w", b.first, err)
		}
		features = append(features, f...)
		if p.sheetOfPrompts() {
			for k, img := range b.images {
				if b.first+k < len(p.sheetPrompts) {
					if err := s.Column.add(img); err != nil {
						return err
					}
				}
			}
		}
		done(len(features))
		return nil
	}
	if e.Images != "" {
		err = r.found(ctx, e, look)
	} else {
		err = r.drawn(ctx, e, name, sum, look, func(b batch) error {
			for _, img := range b.images {
				if err := s.Column.add(img); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	teacher := r.teacher
	var pack []byte
	if teaches {
		if pack, err = r.teach(features, sum); err != nil {
			return nil, err
		}
	}
	return func() (*saved, error) {
		var err error
		if s.Values, err = p.judge.Measure(features, p.captions, teacher); err != nil {
			return nil, err
		}
		if r.spec.Save == nil {
			return s, nil
		}
		r.saving.Lock()
		defer r.saving.Unlock()
		if pack != nil { // before the row, which is not found again without it
			if err := r.spec.Save(name+teacherSuffix, pack); err != nil {
				return nil, err
			}
		}
		raw, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		return s, r.spec.Save(name+".json", raw)
	}, nil
}

// digest says which row an entry's is: measured on what, and compared with which teacher's images.
func (r *runner) digest(e Entry) (string, error) {
	sampler := string(e.Sampler)
	if e.Original > 0 {
		sampler = fmt.Sprintf("%s from %d", sampler, e.Original)
	}
	return digest(r.protocol.digest, e.Model, e.Kind, e.Steps, e.Guidance, e.Prediction, e.Digest, sampler, r.teacherSum)
}

// recallTeacher makes the images of the undistilled teacher, which were measured before, those that entries without a
// teacher of their own are compared with.
func (r *runner) recallTeacher(entries []Entry) error {
	all := r.spec.undistilled()
	if len(all) == 0 || r.spec.Load == nil || slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind == report.Teacher }) {
		return nil
	}
	sum, err := r.digest(all[0])
	if err != nil {
		return err
	}
	var row saved
	raw, _ := r.spec.Load(all[0].fileName() + ".json")
	if json.Unmarshal(raw, &row) != nil || row.Digest != sum || !r.recall(all[0].fileName(), sum) {
		r.spec.warn("the teacher's images are not kept, so nothing is compared with them")
	}
	return nil
}

// teacherSuffix names the file of the teacher's images beside that of its row.
const teacherSuffix = ".images"

// teach makes a row's images those that later rows are compared with, as they are kept, so that a stopped evaluation goes
// on with the same.
func (r *runner) teach(features []Features, sum string) (pack []byte, err error) {
	judge := r.protocol.judge
	if pack, err = judge.Pack(features); err != nil || pack == nil {
		return nil, err
	}
	r.teacher, err = judge.Unpack(pack)
	r.teacherSum = sum
	return pack, err
}

// recall is teach of a row that was measured before; it says whether its images were kept.
func (r *runner) recall(name, sum string) bool {
	raw, _ := r.spec.Load(name + teacherSuffix)
	teacher, err := r.protocol.judge.Unpack(raw)
	if err != nil {
		return false
	}
	if r.teacher = teacher; teacher != nil {
		r.teacherSum = sum
	}
	return true
}

// drawn draws an entry's images: those that are measured, and those that only stand on the sheet.
func (r *runner) drawn(ctx context.Context, e Entry, name, sum string, look, show func(batch) error) error {
	p := r.protocol
	d := &drawing{lanes: r.lanes, pipeline: r.spec.Pipeline, side: p.resolution}
	if e.Pipeline != nil {
		d.pipeline = e.Pipeline
	}
	broken := 0
	var counting sync.Mutex // lanes find them at once
	var err error
	d.kept, err = openKept(r.spec.Images, name, keptSettings{Digest: sum, Model: e.Model, Steps: e.Steps}, func(path string, err error) {
		counting.Lock()
		defer counting.Unlock()
		broken++
		r.spec.warn("%s cannot be read and is drawn again: %v", path, err)
	})
	if err != nil {
		return err
	}
	for _, l := range d.lanes {
		l.ready = false
	}
	d.open = func(l *lane) error {
		err := l.encode(d.pipeline, p.settings.Batch)
		if err == nil && e.Guidance > 1 {
			l.negative, err = l.encoders.Empty()
		}
		if err == nil {
			err = l.load(e)
		}
		return err
	}
	d.options = sample.Options{Steps: e.Steps, Guidance: e.Guidance, Prediction: e.Prediction, Seed: p.settings.Seed, Size: pipeline.Square(p.resolution), Batch: p.settings.Batch}
	if e.Sampler != "" || e.Schedule != nil {
		schedule := cmp.Or(e.Schedule, d.pipeline.Schedule)
		if d.options.Plan, err = cmp.Or(e.Sampler, scheduler.Trained).PlanBy(d.pipeline.Scheduler, schedule, e.Prediction, e.Steps, e.Original); err != nil {
			return err
		}
	}
	if err := d.draw(ctx, p.prompts, look); err != nil {
		return err
	}
	if broken > 0 {
		r.spec.warn("%d images of %s at %d steps were broken", broken, e.Model, e.Steps)
	}
	if seconds := d.clock.perImage(); seconds > 0 && r.spec.Timed != nil {
		t := report.Timing{Model: e.Model, Kind: e.Kind, Steps: e.Steps, Calls: e.calls(), SecondsPerImage: seconds, Busy: d.clock.share(), Device: deviceName(d.lanes)}
		if err := r.spec.Timed(t); err != nil {
			return err
		}
	}
	if p.sheetOfPrompts() {
		return nil
	}
	d.kept, d.options.First = nil, sheetNoise
	return d.draw(ctx, p.sheetPrompts, show)
}

// deviceName says what drew, for a report: "cuda", "2 × cuda" or "cpu, 2 cores".
func deviceName(lanes []*lane) string {
	name, _, _ := strings.Cut(lanes[0].engine.Backend.Description(), " ")
	if name = path.Base(name); name != "cuda" {
		name += fmt.Sprintf(", %d cores", runtime.NumCPU())
	}
	if len(lanes) > 1 {
		return fmt.Sprintf("%d × %s", len(lanes), name)
	}
	return name
}

func (e Entry) undistilled() bool {
	return e.Model == baseModel && (e.Kind == report.Teacher || e.Kind == report.Undistilled)
}

// fileName names a row's files: "full-8step-8-8". What a file's name cannot hold becomes a digest.
func (e Entry) fileName() string {
	model := e.Model
	if !validName.MatchString(model) {
		sum, _ := digest(model)
		model = strings.Trim(unfit.ReplaceAllString(model, "-"), "-.") + "-" + sum[:8]
	}
	return fmt.Sprintf("%s-%s-%d-%d", e.Kind, model, e.Steps, e.calls())
}
