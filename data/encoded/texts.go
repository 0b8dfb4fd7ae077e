package encoded

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"fewstep/data"
	"fewstep/model/weights"
)

// texts encodes captions, if their encodings are not too large together.
func (s *Settings) texts(ctx context.Context, set *data.Set, m *Manifest, r *Report) error {
	if s.TextLimit <= 0 {
		return nil
	}
	each := int64(2 * (s.TextShape[0]*s.TextShape[1] + s.PooledSize))
	if rows := int64(set.Len()); rows > 4*s.TextLimit/each { // captions repeat at times, not that often
		r.TextBytes = rows * each
		return nil
	}
	captions := set.Captions()
	if r.TextBytes = int64(len(captions)) * each; r.TextBytes > s.TextLimit {
		return nil
	}
	r.Text = true
	m.Text, m.TextShape, m.PooledSize = s.Text, s.TextShape, s.PooledSize
	shards := 1
	for shards*PerShard < len(captions) {
		shards *= 2 // so that one more caption changes one shard, mostly
	}
	of := make([][]string, shards)
	for _, c := range captions { // in text order
		n := textShard(c, shards)
		of[n] = append(of[n], c)
	}
	done := 0
	for n, list := range of {
		if err := ctx.Err(); err != nil {
			return err
		}
		h := sha256.New()
		fmt.Fprintf(h, "text %d, encoders %s, %v, %d\n%q\n", version, s.Text, s.TextShape, s.PooledSize, list)
		name := hex.EncodeToString(h.Sum(nil)[:16])
		m.Texts = append(m.Texts, name)
		path := filepath.Join(s.Dir, "text", name+".safetensors")
		done += len(list)
		if f, err := weights.Open(path); err == nil {
			f.Close()
			r.Present++
			continue
		}
		if n%s.Ranks != s.Rank {
			r.Missing++
			continue
		}
		if err := s.makeTexts(path, list); err != nil {
			return err
		}
		r.Made++
		if s.Progress != nil {
			s.Progress("captions", done, len(captions))
		}
	}
	return nil
}

func (s *Settings) makeTexts(path string, captions []string) error {
	var text, pooled []float32
	for part := range slices.Chunk(captions, 64) {
		a, b, err := s.Texts(part)
		if err != nil {
			return err
		}
		for i := range part {
			text, pooled = append(text, a[i]...), append(pooled, b[i]...)
		}
	}
	list, err := json.Marshal(captions)
	if err != nil {
		return err
	}
	return weights.Save(path, []weights.Tensor{
		weights.FromFloat32("text", append([]int{len(captions)}, s.TextShape...), text, weights.BF16),
		weights.FromFloat32("pooled", []int{len(captions), s.PooledSize}, pooled, weights.BF16),
	}, weights.Options{Metadata: map[string]string{"captions": string(list), "encoders": s.Text}, Finite: true})
}
