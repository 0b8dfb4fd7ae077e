package nn

import "fmt"

// Tensors is a set of host tensors by name, f32.
type Tensors map[string][]float32

// Value gives one of them.
func (t Tensors) Value(s Spec) ([]float32, error) {
	v, ok := t[s.Name]
	if !ok {
		return nil, fmt.Errorf("tensor %q of shape %v is missing", s.Name, s.Dims)
	}
	return v, nil
}
