package inspect

import "fewstep/model/weights"

// checkValues reads every value.
func (r *Report) checkValues(tensors []weights.Tensor, progress func(done, total int64)) error {
	r.Values = true
	var done int64
	for _, t := range tensors {
		if first, err := t.NotFinite(); err != nil {
			r.Unread = append(r.Unread, t.Name)
		} else if first >= 0 {
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
