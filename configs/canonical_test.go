package configs

import (
	"bytes"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	a, b := mustParse(t, minimal), mustParse(t, minimal)
	if d := Diff(a, b); len(d) != 0 {
		t.Fatal(d)
	}
	b.Train.Batch = 8
	b.Stages[1].Phases[0].Samples = 5
	b.Eval.SheetPrompts = []string{"a b", "c"}
	want := []string{"train.batch: 512 → 8", `eval.sheet_prompts: [] → ["a b" "c"]`, "stages.8.phases.lora-cond.samples: 512000 → 5"}
	if d := Diff(a, b); !slices.Equal(d, want) {
		t.Errorf("Diff = %q, want %q", d, want)
	}
	b = mustParse(t, minimal)
	b.Stages = b.Stages[1:]
	if d := Diff(a, b); !slices.Equal(d, []string{"stages: [32, 8, 4, 2, 1] → [8, 4, 2, 1]"}) {
		t.Error(d)
	}
}

func TestEveryFieldIsRecorded(t *testing.T) {
	key := regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`)
	fields := 0
	var walk func(v reflect.Value, original func() *Recipe, path []int)
	base := mustParse(t, minimal)
	walk = func(v reflect.Value, original func() *Recipe, path []int) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() {
				continue
			}
			if tag := f.Tag.Get("yaml"); !key.MatchString(tag) {
				t.Errorf("%s has the key %q", f.Name, tag)
			}
			fields++
			field := v.Field(i)
			before := reflect.New(field.Type()).Elem()
			before.Set(field)
			switch field.Kind() {
			case reflect.Struct:
				walk(field, original, append(path, i))
				continue
			case reflect.String:
				field.SetString(field.String() + "x")
			case reflect.Int, reflect.Int64:
				field.SetInt(field.Int() + 1)
			case reflect.Uint64:
				field.SetUint(math.MaxUint64)
			case reflect.Float64:
				field.SetFloat(field.Float() + 0.1234567890123456)
			case reflect.Bool:
				field.SetBool(!field.Bool())
			case reflect.Slice:
				switch field.Type().Elem().Kind() {
				case reflect.Int:
					field.Set(reflect.ValueOf([]int{77}))
				case reflect.Float64:
					field.Set(reflect.ValueOf([]float64{0.77}))
				case reflect.String:
					field.Set(reflect.ValueOf([]string{"- a: #b", ""}))
				default: // stages and phases
					walk(field.Index(0), original, nil)
					continue
				}
			default:
				t.Fatalf("%s is of a kind that recipes cannot hold", f.Name)
			}
			changed := original()
			if d := Diff(base, changed); len(d) == 0 {
				t.Errorf("Diff does not see %s", f.Name)
			}
			again, err := Parse(changed.Resolved(), "resolved.yaml")
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
			} else if !bytes.Equal(again.Resolved(), changed.Resolved()) {
				t.Errorf("%s does not survive the canonical form", f.Name)
			}
			field.Set(before)
		}
	}
	c := mustParse(t, minimal)
	walk(reflect.ValueOf(c).Elem(), func() *Recipe { return c }, nil)
	if fields < 60 {
		t.Errorf("only %d fields were seen", fields)
	}
	source, err := os.ReadFile("recipe.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(source), "\n") {
		if strings.Contains(line, "`yaml:") && !strings.Contains(line, "` ") {
			t.Errorf("a field has no comment: %s", strings.TrimSpace(line))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"mini/demo.yaml", "sdxl/lightning.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add(minimal + "stages: [{name: x, like: \"8\", phases: [merge, {name: a, kind: mse}]}]")
	f.Add("a: &x [*x]")
	f.Add("stages: &s {\"8\": *s}")
	f.Add("eval: {sheet_prompts: [\"\\u0085\", '\u2028', \"\\0\"]}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text), "recipe.yaml")
		if err != nil {
			return
		}
		if c.Validate() != nil {
			return
		}
		resolved := c.Resolved()
		again, err := Parse(resolved, "resolved.yaml")
		if err != nil {
			t.Fatalf("%v in\n%s", err, resolved)
		}
		if !bytes.Equal(again.Resolved(), resolved) {
			t.Fatalf("the canonical form changes:\n%s\n%s", resolved, again.Resolved())
		}
	})
}
