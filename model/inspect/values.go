package inspect

import (
	"slices"

	"fewstep/model/weights"
)

// checkValues reads every value.
func (r *Report) checkValues(tensors []weights.Tensor, progress func(done, total int64)) error {
	r.Values = true
	var done int64
	for _, t := range tensors {
		v, err := t.Float32()
		if err != nil {
			r.Unread = append(r.Unread, t.Name)
		} else if slices.ContainsFunc(v, func(x float32) bool { return x-x != 0 }) {
			r.NotFinite = append(r.NotFinite, t.Name)
		}
		if done += int64(t.Elements()) * int64(t.DType.Size()); progress != nil {
			progress(done, r.Bytes)
		}
	}
	want := r.Metadata[weights.KeyHash]
	if want == "" {
		return nil
	}
	got, err := weights.DataHash(tensors)
	if err != nil {
		return err
	}
	r.Hash = Differs
	if got == want {
		r.Hash = Sound
	}
	return nil
}
