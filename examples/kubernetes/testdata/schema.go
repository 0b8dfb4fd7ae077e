// Command schema makes jobset.schema.json.gz, a JSON schema of JobSet v1alpha2, of the custom resource definition of
// sigs.k8s.io/jobset: descriptions are left out, and fields that are not in it are errors.
//
//	dir=$(go mod download -json sigs.k8s.io/jobset@v0.8.0 | jq -r .Dir)
//	go run schema.go $dir/config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml jobset.schema.json.gz
package main

import (
	"compress/gzip"
	"encoding/json"
	"log"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

func main() {
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(raw, &definition); err != nil {
		log.Fatal(err)
	}
	for _, v := range definition.Spec.Versions {
		if v.Name != "v1alpha2" {
			continue
		}
		schema := v.Schema.OpenAPIV3Schema
		metadata := map[string]any{"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string"}, "namespace": map[string]any{"type": "string"},
			"labels": words(), "annotations": words()}}
		schema["properties"].(map[string]any)["metadata"] = metadata
		strict(schema)
		out, err := os.Create(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		z, _ := gzip.NewWriterLevel(out, gzip.BestCompression)
		if err := json.NewEncoder(z).Encode(schema); err != nil {
			log.Fatal(err)
		}
		if err := z.Close(); err != nil {
			log.Fatal(err)
		}
		if err := out.Close(); err != nil {
			log.Fatal(err)
		}
	}
}

func words() map[string]any {
	return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}
}

// strict changes a schema in place; the validator knows neither Kubernetes' extensions nor its formats.
func strict(node any) {
	switch n := node.(type) {
	case []any:
		for _, v := range n {
			strict(v)
		}
	case map[string]any:
		if _, ok := n["type"].(string); ok {
			delete(n, "description")
			delete(n, "format")
		}
		intOrString := n["x-kubernetes-int-or-string"] == true
		open := n["x-kubernetes-preserve-unknown-fields"] == true || n["x-kubernetes-embedded-resource"] == true
		for name := range n {
			if strings.HasPrefix(name, "x-kubernetes-") {
				delete(n, name)
			}
		}
		if intOrString {
			delete(n, "anyOf")
			delete(n, "description")
			n["type"] = []any{"integer", "string"}
		}
		if _, ok := n["properties"].(map[string]any); ok && n["type"] == "object" && n["additionalProperties"] == nil && !open {
			n["additionalProperties"] = false
		}
		for _, v := range n {
			strict(v)
		}
	}
}
