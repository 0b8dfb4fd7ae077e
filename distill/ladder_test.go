package distill

import (
	"bytes"
	"fewstep/configs"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts in testdata/ladder anew")

// Each file of testdata/ladder is a transcript: commands, each followed by its
// input, a line of four dashes and its output up to an empty line.
//
//	recipe          the input is laid over the defaults and validated
//	plan            every phase with what it depends on
//	trained N       an update of N samples
//	finished        the phase's result is saved
//	phase           train the rest of the phase and finish it
//	rest            the same for all phases left
//	at S P N        go to that state
func TestLadderTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/ladder/*.txt")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := transcript(string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(want) {
				t.Errorf("got:\n%s\nRead the difference; if it is meant, run: go test ./distill -rewrite", firstDifference(got, string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("line %d: %s\nwant: %s", i+1, g[i], strings.Join(w[min(i, len(w)):min(i+1, len(w))], ""))
		}
	}
	return "the file has more lines"
}

// transcript runs the commands of a transcript and returns it with the outputs
// that they have now.
func transcript(text string) string {
	var out bytes.Buffer
	var p player
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		fmt.Fprintln(&out, line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var input []string
		for i++; i < len(lines) && lines[i] != "----"; i++ {
			input = append(input, lines[i])
			fmt.Fprintln(&out, lines[i])
		}
		for i++; i < len(lines) && lines[i] != ""; i++ { // the old output
		}
		fmt.Fprintf(&out, "----\n%s", p.command(strings.Fields(line), strings.Join(input, "\n")))
		if i < len(lines) {
			fmt.Fprintln(&out)
		}
	}
	return out.String()
}

type player struct {
	config *configs.Recipe
	ladder *Ladder
	state  State
}

func (p *player) command(words []string, input string) string {
	var n, stage, phase int64
	switch words[0] {
	case "recipe":
		c, err := configs.Parse([]byte("name: test\nmodel: m\ndata: {source: s}\n"+input), "recipe.yaml")
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		p.config = c
		if p.ladder, err = NewLadder(c, Epsilon); err != nil {
			return "error: " + err.Error() + "\n"
		}
		p.state = p.ladder.Start()
		return fmt.Sprintf("%d phases, %d samples\n", len(p.ladder.Steps()), p.ladder.Total())
	case "plan":
		var b strings.Builder
		for _, s := range p.ladder.Steps() {
			fmt.Fprintln(&b, p.describe(s))
		}
		return b.String()
	case "trained":
		fmt.Sscan(words[1], &n)
		return p.next(Event{Kind: Trained, Samples: n})
	case "finished":
		return p.next(Event{Kind: Finished})
	case "phase":
		return p.phase()
	case "rest":
		var b strings.Builder
		for !p.ladder.Done(p.state) {
			b.WriteString(p.phase())
		}
		return b.String()
	case "at":
		fmt.Sscan(strings.Join(words[1:], " "), &stage, &phase, &n)
		p.state = State{Stage: int(stage), Phase: int(phase), Samples: n}
		return p.where()
	}
	return "unknown command\n"
}

func (p *player) describe(s Step) string {
	text := fmt.Sprintf("%s/%s: %s", s.StageName, s.PhaseName, s.Kind)
	if s.Form != "" {
		text += " " + s.Form
	}
	if s.Kind != configs.KindMerge {
		text += fmt.Sprintf(" of %s, %d samples from %d", s.Target, s.Samples, s.First)
		if s.Warmup > 0 {
			text += fmt.Sprintf(", %d of them before the student moves", s.Warmup)
		}
		text += fmt.Sprintf("; teacher %s", s.Teacher)
		if s.TeacherSteps > 0 {
			text += fmt.Sprintf(" in %d steps", s.TeacherSteps)
		}
		if s.Guidance > 0 {
			text += fmt.Sprintf(", guidance %g", s.Guidance)
		}
	}
	text += fmt.Sprintf("; from %s", s.Start)
	if s.FreshLoRA {
		text += " + fresh lora"
	}
	if s.DiscriminatorBackbone != None {
		text += fmt.Sprintf("; discriminator: backbone %s, head %s", s.DiscriminatorBackbone, s.DiscriminatorHead)
	}
	text += fmt.Sprintf("; makes %s", s.Produces)
	if s.Prediction == Sample {
		text += " (sample)"
	}
	if s.Final {
		text += ", exported"
	}
	return text
}

func (p *player) where() string {
	text := fmt.Sprintf("%+v position %d", p.state, p.ladder.Position(p.state))
	if p.ladder.Done(p.state) {
		return text + " done\n"
	}
	s, err := p.ladder.Step(p.state)
	if err != nil {
		return text + " error: " + err.Error() + "\n"
	}
	return fmt.Sprintf("%s in %s/%s\n", text, s.StageName, s.PhaseName)
}

func (p *player) next(e Event) string {
	s, err := p.ladder.Next(p.state, e)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	p.state = s
	return p.where()
}

func (p *player) phase() string {
	for {
		step, err := p.ladder.Step(p.state)
		if err != nil {
			return "error: " + err.Error() + "\n"
		}
		if p.state.Samples == step.Samples {
			return p.next(Event{Kind: Finished})
		}
		if p.state, err = p.ladder.Next(p.state, Event{Kind: Trained, Samples: int64(p.config.Train.GlobalBatch())}); err != nil {
			return "error: " + err.Error() + "\n"
		}
	}
}

const minimal = "model: m\ndata: {source: s}\n"

func mustParse(t *testing.T, text string) *configs.Recipe {
	t.Helper()
	c, err := configs.Parse([]byte(text), "recipe.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A ladder whose samples no int64 counts is refused.
func TestLadderTooLong(t *testing.T) {
	for _, set := range []string{
		"stages.8.phases.lora-cond.samples=9223372036854775807",
		"stages.8.phases.lora-cond={count_student: true, warmup_discriminator: 9223372036854775807, samples: 512}",
	} {
		c := mustParse(t, minimal)
		if err := c.Set(set); err != nil {
			t.Fatal(err)
		}
		if _, err := NewLadder(c, Epsilon); err == nil || !strings.Contains(err.Error(), "longer than can be counted") {
			t.Errorf("%s: %v", set, err)
		}
	}
}
