// Package kubernetes tests the manifest: by JobSet's schema, and by what fewstep does with it.
package kubernetes

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"fewstep/cluster"
)

// schema is that of JobSet v1alpha2, made by testdata/schema.go.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	f, err := os.Open("testdata/jobset.schema.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("jobset.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("jobset.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func manifest(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("jobset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestSchema(t *testing.T) {
	s := schema(t)
	check := func(text string) error {
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
	good := manifest(t)
	if err := check(good); err != nil {
		t.Errorf("%v", err)
	}
	for _, c := range [][2]string{ // what the schema must see
		{"podFailurePolicy:", "podFailurePolicies:"}, {"action: FailJobSet", "action: FailEverything"}, {"values: [3]", "values: [three]"},
		{"containerPort: 9090", "containerPort: nine"}, {"maxRestarts: 100", "maxRestart: 100"}, {"initContainers:", "initContainer:"}, {"restartPolicy: Never", "restart: Never"},
	} {
		if !strings.Contains(good, c[0]) {
			t.Errorf("the manifest has no %q", c[0])
		}
		if err := check(strings.Replace(good, c[0], c[1], 1)); err == nil {
			t.Errorf("%q is not refused", c[1])
		}
	}
}

// jobSet is the part of the manifest that fewstep's behaviour depends on.
type jobSet struct {
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Spec struct {
		FailurePolicy struct {
			MaxRestarts int `yaml:"maxRestarts"`
			Rules       []struct {
				Action              string
				OnJobFailureReasons []string `yaml:"onJobFailureReasons"`
			}
		} `yaml:"failurePolicy"`
		ReplicatedJobs []struct {
			Name     string
			Template struct {
				Spec struct {
					Parallelism, Completions int
					BackoffLimit             int `yaml:"backoffLimit"`
					PodFailurePolicy         struct {
						Rules []struct {
							Action      string
							OnExitCodes struct {
								ContainerName string `yaml:"containerName"`
								Operator      string
								Values        []int
							} `yaml:"onExitCodes"`
						}
					} `yaml:"podFailurePolicy"`
					Template struct {
						Spec struct {
							InitContainers []container `yaml:"initContainers"`
							Containers     []container
						}
					}
				}
			}
		} `yaml:"replicatedJobs"`
	}
}

type container struct {
	Name string
	Args []string
	Env  []struct {
		Name, Value string
		ValueFrom   struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	}
}

// Codes that no new attempt can mend fail the set, whether doctor or the run ends with them; one that asks for a new attempt is not counted; all others are, and restart
// all ranks together.
func TestExitCodes(t *testing.T) {
	var j jobSet
	if err := yaml.Unmarshal([]byte(manifest(t)), &j); err != nil {
		t.Fatal(err)
	}
	job := j.Spec.ReplicatedJobs[0].Template.Spec
	action := func(code int) string {
		for _, r := range job.PodFailurePolicy.Rules {
			if r.OnExitCodes.ContainerName == "" && r.OnExitCodes.Operator == "In" && slices.Contains(r.OnExitCodes.Values, code) {
				return r.Action
			}
		}
		return ""
	}
	const interrupted, nonFinite = 3, 5
	for code, want := range map[int]string{cluster.CodeError: "FailJob", cluster.CodeMisplaced: "FailJob", interrupted: "Ignore", cluster.CodeDiffers: "FailJob",
		nonFinite: "FailJob", cluster.CodeLost: "", 137: ""} {
		if got := action(code); got != want {
			t.Errorf("code %d leads to %q, want %q", code, got, want)
		}
	}
	policy := j.Spec.FailurePolicy
	if job.BackoffLimit != 0 || policy.MaxRestarts != 100 || policy.Rules[0].Action != "FailJobSet" || policy.Rules[0].OnJobFailureReasons[0] != "PodFailurePolicy" {
		t.Errorf("%+v", policy)
	}
	if j.Metadata.Labels["kueue.x-k8s.io/queue-name"] == "" {
		t.Error("no queue")
	}
}

// Doctor compares the nodes that the run is to use, on the same folder and with the same recipe, before each run.
func TestDoctorFirst(t *testing.T) {
	var j jobSet
	if err := yaml.Unmarshal([]byte(manifest(t)), &j); err != nil {
		t.Fatal(err)
	}
	pod := j.Spec.ReplicatedJobs[0].Template.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 {
		t.Fatalf("%+v", pod)
	}
	doctor, run := pod.InitContainers[0], pod.Containers[0]
	after := func(args []string, flag string) string { return args[slices.Index(args, flag)+1] }
	if doctor.Args[0] != "doctor" || doctor.Args[1] != "--cluster" || run.Args[0] != "run" || after(doctor.Args, "--config") != run.Args[1] ||
		after(doctor.Args, "--dir") != after(run.Args, "--dir") || !reflect.DeepEqual(doctor.Env, run.Env) {
		t.Errorf("%+v", pod)
	}
}

// The variables of each pod tell its rank and the way to rank 0, also with more nodes than the manifest has.
func TestRanks(t *testing.T) {
	for _, nodes := range []int{1, 4} {
		text := strings.NewReplacer("parallelism: 1 ", fmt.Sprintf("parallelism: %d ", nodes), "completions: 1", fmt.Sprintf("completions: %d", nodes),
			`value: "1"`, fmt.Sprintf(`value: "%d"`, nodes)).Replace(manifest(t))
		var j jobSet
		if err := yaml.Unmarshal([]byte(text), &j); err != nil {
			t.Fatal(err)
		}
		replicated := j.Spec.ReplicatedJobs[0]
		job := replicated.Template.Spec
		if job.Parallelism != nodes || job.Completions != nodes {
			t.Fatalf("%d pods at once, %d in all", job.Parallelism, job.Completions)
		}
		for index := range nodes {
			place, err := cluster.Detect(cluster.Given{}, func(name string) string {
				for _, e := range job.Template.Spec.Containers[0].Env {
					switch {
					case e.Name == name && strings.HasSuffix(e.ValueFrom.FieldRef.FieldPath, "['batch.kubernetes.io/job-completion-index']"):
						return fmt.Sprint(index)
					case e.Name == name:
						return e.Value
					}
				}
				return ""
			})
			want := fmt.Sprintf("%s-%s-0-0.%s:%d", j.Metadata.Name, replicated.Name, j.Metadata.Name, cluster.DefaultPort)
			if err != nil || place.Rank != index || place.Nodes != nodes || place.Address != want {
				t.Errorf("pod %d of %d: %+v, %v; want %s", index, nodes, place, err, want)
			}
		}
	}
}
