package lora

import (
	"fmt"
)

// all reads the named parts.
func (r reader) all(parts map[part]string, names ...part) (list []Matrix, err error) {
	for _, p := range names {
		if parts[p] == "" {
			return nil, fmt.Errorf("it has no %s: the file is incomplete", p)
		}
		m, err := r.matrix(parts[p])
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func (r reader) half(parts map[part]string, p part) (Matrix, error) {
	if parts[p] == "" {
		return Matrix{}, fmt.Errorf("it has %s but no %s: the file is incomplete", parts[down]+parts[up], p)
	}
	return r.matrix(parts[p])
}

func (r reader) matrix(name string) (Matrix, error) {
	t, err := r.f.Tensor(name)
	if err != nil {
		return Matrix{}, err
	}
	values, err := t.Finite()
	return Matrix{Shape: t.Shape, Data: values}, err
}

// alpha is the tensor's, else the config's, else the rank.
func (r reader) alpha(path string, parts map[part]string, rank int) (float64, error) {
	if parts[alpha] != "" {
		return r.number(parts[alpha])
	}
	r.report.MissingAlpha++
	if value, ok := r.config.scale(path, rank); ok && rank > 0 {
		return value, nil
	}
	return float64(rank), nil
}

func (r reader) number(name string) (float64, error) {
	t, err := r.f.Tensor(name)
	if err != nil {
		return 0, err
	}
	values, err := t.Float32()
	if err != nil {
		return 0, err
	}
	if len(values) != 1 {
		return 0, fmt.Errorf("tensor %s: shape %v, want a single value", name, t.Shape)
	}
	return float64(values[0]), nil
}
