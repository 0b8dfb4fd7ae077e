package weights

import (
	"fmt"
	"maps"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Reshape gives the tensor's elements another shape of the same number, without a copy.
func (t Tensor) Reshape(shape []int) (Tensor, error) {
	to := t
	to.Shape = slices.Clone(shape)
	before, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return Tensor{}, t.errorf("%w", err)
	}
	if after, err := byteSize(t.DType, shape); err != nil || after != before {
		return Tensor{}, t.errorf("the shape %v cannot be read as %v", t.Shape, shape)
	}
	return to, nil
}

// Rows gives the rows from to below to of the first dimension, without a copy.
func (t Tensor) Rows(from, to int) (Tensor, error) {
	if len(t.Shape) == 0 || from < 0 || from > to || to > t.Shape[0] {
		return Tensor{}, t.errorf("the shape %v has no rows %d to %d", t.Shape, from, to)
	}
	part := t
	part.Shape = slices.Clone(t.Shape)
	part.Shape[0] = to - from
	cut := func(data []byte) []byte {
		if t.Shape[0] == 0 {
			return data
		}
		row := len(data) / t.Shape[0]
		return data[from*row : to*row : to*row]
	}
	if t.Data != nil {
		part.Data = cut(t.Data)
		return part, nil
	}
	part.Fill = func() ([]byte, error) {
		data, err := t.Bytes()
		if err != nil {
			return nil, err
		}
		return cut(data), nil
	}
	return part, nil
}

// Transposed gives the transpose of a matrix, which is made each time its bytes are asked for.
func (t Tensor) Transposed() (Tensor, error) {
	if len(t.Shape) != 2 {
		return Tensor{}, t.errorf("the shape %v is not a matrix", t.Shape)
	}
	rows, columns := t.Shape[0], t.Shape[1]
	to := t
	to.Shape, to.Data = []int{columns, rows}, nil
	to.Fill = func() ([]byte, error) {
		data, err := t.Bytes()
		if err != nil {
			return nil, err
		}
		out := make([]byte, len(data))
		size := t.DType.Size()
		err = guardFaults(func() error {
			for r := range rows {
				for c := range columns {
					copy(out[(c*rows+r)*size:], data[(r*columns+c)*size:(r*columns+c+1)*size])
				}
			}
			return nil
		})
		t.release(data)
		return out, err
	}
	return to, nil
}

// Stacked is the tensors one above the other, along the first dimension; the other dimensions and the types must be
// equal.
func Stacked(name string, tensors ...Tensor) (Tensor, error) {
	if len(tensors) == 0 || len(tensors[0].Shape) == 0 {
		return Tensor{}, fmt.Errorf("tensor %s: nothing to put one above the other", name)
	}
	first := tensors[0]
	out := Tensor{Name: name, DType: first.DType, Shape: slices.Clone(first.Shape)}
	for _, t := range tensors[1:] {
		if t.DType != first.DType || len(t.Shape) != len(first.Shape) || !slices.Equal(t.Shape[1:], first.Shape[1:]) {
			return Tensor{}, fmt.Errorf("tensor %s: %s is %s%v and %s is %s%v: they do not go together", name, first.Name, first.DType, first.Shape, t.Name, t.DType, t.Shape)
		}
		out.Shape[0] += t.Shape[0]
	}
	out.Fill = func() ([]byte, error) {
		var all []byte
		for _, t := range tensors {
			data, err := t.Bytes()
			if err != nil {
				return nil, err
			}
			if err := guardFaults(func() error { all = append(all, data...); return nil }); err != nil {
				return nil, t.errorf("%w", err)
			}
			t.release(data)
		}
		return all, nil
	}
	return out, nil
}

// As is the tensor with its elements converted to another type, rounded to nearest, when its bytes are asked for. The
// tensor itself where the type is the same or empty, and where its elements are whole numbers or booleans.
func (t Tensor) As(to DType) Tensor {
	if to == "" || to == t.DType || !t.DType.Float() {
		return t
	}
	out := t
	out.DType, out.Data = to, nil
	out.Fill = func() ([]byte, error) {
		data, err := t.Bytes()
		if err != nil {
			return nil, err
		}
		t.willNeed(data)
		converted, err := convert(data, t.DType, to)
		t.release(data)
		return converted, err
	}
	return out
}

// convert changes the type of elements in pieces, on all cores.
func convert(data []byte, from, to DType) ([]byte, error) {
	const piece = 1 << 18 // elements
	out := make([]byte, len(data)/from.Size()*to.Size())
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for at := 0; at*from.Size() < len(data); at += piece {
		g.Go(func() error {
			return guardFaults(func() error {
				part := data[at*from.Size() : min((at+piece)*from.Size(), len(data))]
				v, err := decode(part, from)
				if err != nil {
					return err
				}
				encoded, err := encodeFrom(v, to, at)
				copy(out[at*to.Size():], encoded)
				return err
			})
		})
	}
	return out, g.Wait()
}

// Collect makes a source of tensors, whose names differ. Closing it does nothing.
func Collect(tensors []Tensor) Source {
	c := collection{}
	for _, t := range tensors {
		c[t.Name] = t
	}
	return c
}

type collection map[string]Tensor

func (c collection) Names() []string { return slices.Sorted(maps.Keys(c)) }

func (c collection) Tensor(name string) (Tensor, error) {
	t, ok := c[name]
	if !ok {
		return Tensor{}, fmt.Errorf("no tensor %s", name)
	}
	return t, nil
}

func (c collection) Close() error { return nil }
