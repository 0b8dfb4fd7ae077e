package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func save(t *testing.T, path string, values map[string]float32) {
	t.Helper()
	var tensors []Tensor
	for name, v := range values {
		tensors = append(tensors, FromFloat32(name, []int{1}, []float32{v}, F32))
	}
	if err := Write(path, tensors, nil); err != nil {
		t.Fatal(err)
	}
}

func saveText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, dir string) (map[string]float32, error) {
	t.Helper()
	source, err := OpenModel(dir)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	got := map[string]float32{}
	for _, name := range source.Names() {
		tensor, err := source.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := tensor.Float32()
		if err != nil {
			t.Fatal(err)
		}
		got[name] = v[0]
	}
	if _, err := source.Tensor("no such"); err == nil || !strings.Contains(err.Error(), "no tensor no such") {
		t.Errorf("missing tensor: %v", err)
	}
	return got, nil
}

func TestOpenModelFindsWeights(t *testing.T) {
	for _, names := range [][]string{ // the first wins
		{"diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "other.safetensors"},
		{"model.safetensors", "model.fp16.safetensors"},
		{"diffusion_pytorch_model.fp16.safetensors", "other.safetensors"},
		{"model.fp16.safetensors"},
		{"sdxl_vae.safetensors"},
	} {
		dir := t.TempDir()
		for i, name := range names {
			save(t, filepath.Join(dir, name), map[string]float32{"w": float32(i)})
		}
		got, err := load(t, dir)
		if err != nil || !reflect.DeepEqual(got, map[string]float32{"w": 0}) {
			t.Errorf("%v: %v (%v)", names, got, err)
		}
		if got, err := load(t, filepath.Join(dir, names[0])); err != nil || got["w"] != 0 {
			t.Errorf("%s itself: %v (%v)", names[0], got, err)
		}
	}
}

func TestOpenModelShards(t *testing.T) {
	for _, index := range []string{
		"diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json",
		"diffusion_pytorch_model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json",
	} {
		dir := t.TempDir()
		save(t, filepath.Join(dir, "s-00001-of-00002.safetensors"), map[string]float32{"a": 1, "c": 3})
		save(t, filepath.Join(dir, "s-00002-of-00002.safetensors"), map[string]float32{"b": 2})
		saveText(t, filepath.Join(dir, index), `{"metadata":{"total_size":12},"weight_map":{
			"a":"s-00001-of-00002.safetensors","b":"s-00002-of-00002.safetensors","c":"s-00001-of-00002.safetensors"}}`)
		got, err := load(t, dir)
		if err != nil || !reflect.DeepEqual(got, map[string]float32{"a": 1, "b": 2, "c": 3}) {
			t.Errorf("%s: %v (%v)", index, got, err)
		}
		files, err := ModelFiles(dir)
		if err != nil || len(files) != 3 || filepath.Base(files[0]) != index {
			t.Errorf("%s: files %v (%v)", index, files, err)
		}
	}
}

func TestOpenModelErrors(t *testing.T) {
	const index = "model.safetensors.index.json"
	for _, c := range []struct{ name, index, want string }{
		{"index not JSON", `{`, "not a shard index"},
		{"index without map", `{}`, "weight_map"},
		{"shard outside", `{"weight_map":{"a":"../x.safetensors"}}`, "outside the folder"},
		{"missing shard", `{"weight_map":{"a":"y.safetensors"}}`, "y.safetensors"},
		{"tensor not in shard", `{"weight_map":{"b":"x.safetensors"}}`, "has no tensor b"},
	} {
		dir := t.TempDir()
		save(t, filepath.Join(dir, "x.safetensors"), map[string]float32{"a": 1})
		saveText(t, filepath.Join(dir, index), c.index)
		_, err := OpenModel(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), filepath.Join(dir, index)) {
			t.Errorf("%s: error %v, want the index and %q", c.name, err, c.want)
		}
	}
	dir := t.TempDir()
	if _, err := OpenModel(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	if _, err := OpenModel(dir); err == nil || !strings.Contains(err.Error(), "holds no weights") {
		t.Errorf("empty folder: %v", err)
	}
	saveText(t, filepath.Join(dir, "diffusion_pytorch_model.bin"), "x")
	if _, err := OpenModel(dir); err == nil || !strings.Contains(err.Error(), "pickled") {
		t.Errorf("pickled weights: %v", err)
	}
	for i := range 2 {
		save(t, filepath.Join(dir, fmt.Sprintf("%d.safetensors", i)), map[string]float32{"a": 1})
	}
	if _, err := OpenModel(dir); err == nil || !strings.Contains(err.Error(), "0.safetensors, 1.safetensors") {
		t.Errorf("two weight files: %v", err)
	}
}
