// Package report turns the results of a run into a page that a reviewer can
// check: index.html, one file that needs no network, metrics.csv and
// metrics.json. It knows nothing of networks or run directories; the caller
// fills a [Report] and calls [Write].
//
// The output depends on the Report only: no clock, no random identifiers.
//
// The page is tested in a headless Chromium, where there is one: layout at
// three widths in light and dark, contrast, keyboard, names for screen readers,
// paper, no complaint and no network request. To look at it as well:
//
//	go test ./eval/report -run Browser -shots DIR
package report

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"fewstep/eval/stats"
)

// Report is everything the page shows. Only Title and Rows are required.
type Report struct {
	Title     string // headline of the page
	Summary   string // one or two sentences under it; what was distilled from what
	Generated string // date of the run, if it is to be shown

	Facts    []Fact     // what was evaluated and how: data, samples, seeds, protocol
	Warnings []string   // shown at the top: few samples, a metric by other features than usual, …
	Commands []Command  // how to repeat it
	Lineage  []Artifact // what it was made from and what it made, with hashes
	Config   string     // the resolved config, verbatim

	Metrics []Metric // how each metric is computed and read; those not listed get defaults
	Rows    []Row
	Timings []Timing // optional, measured time per image

	Published []Published // optional, figures from papers, shown beside rows of equal steps

	Sheets []Sheet
	Stages []Stage // training curves in order
}

// Fact is one line of "what was evaluated and how".
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Command is a shell command and what it does.
type Command struct {
	Purpose string `json:"purpose"`
	Line    string `json:"line"`
}

// Artifact is a file with its hash.
type Artifact struct {
	Name   string `json:"name"` // role: "base UNet", "evaluation captions"
	Path   string `json:"path,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Note   string `json:"note,omitempty"`
}

// Kind says what made the images of a row.
type Kind string

const (
	Real        Kind = "real"        // real images against real images: the floor
	Teacher     Kind = "teacher"     // the teacher as it was meant to be used: 32 steps with guidance
	Undistilled Kind = "undistilled" // the same network at fewer steps
	Earlier     Kind = "earlier"     // a distilled student of more steps, at fewer steps and with no further training
	Rival       Kind = "rival"       // a model of another run, named RUN/MODEL
	Full        Kind = "full"        // distilled, all weights
	LoRA        Kind = "lora"        // distilled, LoRA on the teacher
)

var kinds = []Kind{Real, Teacher, Undistilled, Earlier, Rival, Full, LoRA}

// Row is one number: one metric of one model at one step count.
type Row struct {
	Model      string  // name of the model: "teacher", "8step_lora"
	Steps      int     // denoising steps; 0 for real images
	Calls      int     // network calls per image: guidance costs two per step; 0 for real images
	Kind       Kind    //
	Metric     string  // "FD(mini-clip)", "FID-Patch", "CLIP score"
	Convention string  // name of the convention of EVAL.md
	Value      float64 //
	Low, High  float64 // interval around Value; NaN: none
	Samples    int     // images behind the number

	// Influences of samples on Value, the same samples in all rows, each drawn for the same prompt from the same noise:
	// how far two rows' difference can be trusted follows from them (see [stats.Difference]). Optional.
	Influences []float32
}

// difference is r − o with a 95 % interval of it; ok is false where the rows' influences are not known.
func (r Row) difference(o Row) (d stats.Interval, ok bool) {
	of := func(r Row) stats.Interval {
		iv := stats.Interval{Value: r.Value, Samples: r.Samples}
		for _, v := range r.Influences {
			iv.Influences = append(iv.Influences, float64(v))
		}
		return iv
	}
	return stats.Difference(of(r), of(o), 0.95)
}

// apart tells whether the difference of two rows is larger than its uncertainty: its interval excludes zero, or, where
// influences are not known, the rows' own intervals do not touch.
func (r Row) apart(o Row) bool {
	if d, ok := r.difference(o); ok {
		return d.Low > 0 || d.High < 0
	}
	return r.HasInterval() && o.HasInterval() && (r.High < o.Low || o.High < r.Low)
}

// HasInterval tells whether the row has an interval.
func (r Row) HasInterval() bool { return !math.IsNaN(r.Low) && !math.IsNaN(r.High) }

// sameModel tells whether two rows are of one model at one step count.
func (r Row) sameModel(o Row) bool {
	return r.Model == o.Model && r.Kind == o.Kind && r.Steps == o.Steps && r.Calls == o.Calls
}

// Guided tells whether every step cost two calls.
func (r Row) Guided() bool { return r.Steps > 0 && r.Calls >= 2*r.Steps }

// Metric explains one metric under one convention.
type Metric struct {
	Name       string `json:"metric"`
	Convention string `json:"convention"`
	Higher     bool   `json:"higher_is_better"`
	Note       string `json:"note,omitempty"` // features, image treatment, how the interval was made
	// Counterpart names the published metric that measures the same under another convention ("FID-Whole"): ratios
	// to the teacher may then be set beside each other, values not.
	Counterpart string `json:"counterpart,omitempty"`
	// Ideal is the value of real images where neither more nor less is better; 0 = none.
	Ideal float64 `json:"ideal,omitempty"`
	// Diagnostic says that it tells how images differ rather than how good they are: no verdict is made of it.
	Diagnostic bool `json:"diagnostic,omitempty"`
}

// distance tells whether it is a Fréchet distance, which falls with the number of samples.
func (m Metric) distance() bool {
	return strings.HasPrefix(m.Name, "FD") || strings.HasPrefix(m.Name, "FID")
}

// Direction says in words which values are better.
func (m Metric) Direction() string {
	switch {
	case m.Higher:
		return "higher is better"
	case m.Ideal != 0:
		return fmt.Sprintf("nearer to %g is better", m.Ideal)
	}
	return "lower is better"
}

// Timing is the measured sampling time of a model.
type Timing struct {
	Model           string  `json:"model"`
	Kind            Kind    `json:"kind"`
	Steps           int     `json:"steps"`
	Calls           int     `json:"calls"`
	SecondsPerImage float64 `json:"seconds_per_image"`
	Busy            float64 `json:"busy,omitempty"` // share of the evaluation's time in which images were being drawn; 0 = unknown
	Device          string  `json:"device,omitempty"`
}

// Sheet is a picture of samples.
type Sheet struct {
	Title   string // "8 steps beside the teacher"
	Caption string // what the rows and columns are, and that the noise is the same
	Alt     string // for those who cannot see it; default: title and caption
	PNG     []byte // see [ComposeSheet]
	Prompts []string
}

// Stage is one stage of the ladder ("32 → 8").
type Stage struct {
	Name   string
	Phases []Phase
}

// Phase is one phase of a stage, with its curves over training samples.
type Phase struct {
	Name   string // "LoRA, conditional"
	Curves []Curve
	Notes  []string // what the run itself reported, in its words

	// Updates of student and discriminator that were made.
	Student, Discriminator int
	// Few says that the student has hardly moved: the phase's model is nearly the one that it started from.
	Few bool
}

// Curve names; a phase may have others.
const (
	LossCurve     = "loss"
	DLossCurve    = "discriminator loss"
	AccuracyCurve = "discriminator accuracy"
	PairedCurve   = "accuracy of pairs"
	LogitGapCurve = "logit gap"
)

// Curve is one quantity during a phase.
type Curve struct {
	Name   string
	Points []Point // in order of Samples
}

// Point is a value after a number of training samples.
type Point struct {
	Samples int64
	Value   float64
}

// Validate refuses what would print as a number without being one.
func (r *Report) Validate() error {
	var errs []error
	if strings.TrimSpace(r.Title) == "" {
		errs = append(errs, errors.New("the report has no title"))
	}
	if len(r.Rows) == 0 {
		errs = append(errs, errors.New("the report has no rows: evaluate at least one model first"))
	}
	seen := map[string]bool{}
	for i, row := range r.Rows {
		name := fmt.Sprintf("row %d (%s, %d steps, %s %s)", i, row.Model, row.Steps, row.Metric, row.Convention)
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
		}
		if row.Model == "" || row.Metric == "" || row.Convention == "" {
			fail("model, metric and convention must be named")
		}
		if !slices.Contains(kinds, row.Kind) {
			fail("kind %q is none of %v", row.Kind, kinds)
		}
		if math.IsNaN(row.Value) || math.IsInf(row.Value, 0) {
			fail("value is %v", row.Value)
		}
		switch {
		case math.IsNaN(row.Low) != math.IsNaN(row.High) || math.IsInf(row.Low, 0) || math.IsInf(row.High, 0):
			fail("interval is [%v, %v]: give two numbers, or NaN twice for none", row.Low, row.High)
		case row.HasInterval() && !(row.Low <= row.Value && row.Value <= row.High):
			fail("interval [%g, %g] does not hold the value %g (NaN twice stands for no interval)", row.Low, row.High, row.Value)
		}
		if row.Steps < 0 || row.Calls < row.Steps || row.Samples < 1 {
			fail("impossible counts: %d steps, %d calls, %d samples", row.Steps, row.Calls, row.Samples)
		}
		key := fmt.Sprintf("%s|%d|%d|%s|%s|%s", row.Model, row.Steps, row.Calls, row.Kind, row.Metric, row.Convention)
		if seen[key] {
			fail("appears twice")
		}
		seen[key] = true
	}
	for i, s := range r.Sheets {
		if len(s.PNG) < 8 || string(s.PNG[:8]) != "\x89PNG\r\n\x1a\n" {
			errs = append(errs, fmt.Errorf("sheet %d (%s) is not a PNG", i, s.Title))
		}
	}
	return errors.Join(errs...)
}

// recommendedSamples is EVAL's bound for a Fréchet distance.
const recommendedSamples = 2048

// warnings are the caller's and those that the rows themselves call for.
func (r *Report) warnings() []string {
	out := slices.Clone(r.Warnings)
	var few, mixed []string
	fewest := math.MaxInt
	for _, m := range r.metricsInUse() {
		if !m.distance() {
			continue
		}
		least, most := math.MaxInt, 0
		for _, row := range r.Rows {
			if r.metric(row.Metric, row.Convention) == m {
				least, most = min(least, row.Samples), max(most, row.Samples)
			}
		}
		if least < recommendedSamples {
			few, fewest = append(few, metricTitle(m)), min(fewest, least)
		}
		if least != most {
			mixed = append(mixed, fmt.Sprintf("%s (%d to %d)", metricTitle(m), least, most))
		}
	}
	if len(few) > 0 {
		out = append(out, fmt.Sprintf("Few samples (%d) for %s: below %d a Fréchet distance is noticeably biased upwards, so compare the rows of this page with each other only.", fewest, enumerate(few), recommendedSamples))
	}
	for _, stage := range r.Stages {
		for _, p := range stage.Phases {
			if p.Few {
				out = append(out, fmt.Sprintf("In stage %s the phase %s moved its student in %s only: what it made is nearly what it started from.", stage.Name, p.Name, plural(p.Student, "update")))
			}
		}
	}
	if len(mixed) > 0 {
		out = append(out, fmt.Sprintf("Different sample counts for %s: fewer samples raise a distance, so only rows of equal count compare.", enumerate(mixed)))
	}
	return out
}

// metric returns how a row's metric is read. Unlisted ones are distances,
// smaller being better, unless they are named a score.
func (r *Report) metric(name, convention string) Metric {
	for _, m := range r.Metrics {
		if m.Name == name && m.Convention == convention {
			return m
		}
	}
	return Metric{Name: name, Convention: convention, Higher: strings.Contains(strings.ToLower(name), "score")}
}

// judged lists the metrics that verdicts are made of.
func (r *Report) judged() []Metric {
	return slices.DeleteFunc(r.metricsInUse(), func(m Metric) bool { return m.Diagnostic })
}

// metricsInUse lists the metrics of the rows in order of first appearance.
func (r *Report) metricsInUse() []Metric {
	var out []Metric
	for _, row := range r.Rows {
		if m := r.metric(row.Metric, row.Convention); !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}
