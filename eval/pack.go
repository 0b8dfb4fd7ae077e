package eval

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"fewstep/eval/metric"
)

// packed is the first line of what the convention mini-clip keeps of the teacher's images: their small pixels and their
// CLIP embeddings, f32 and little-endian, follow.
type packed struct {
	Images    int `json:"images"`
	Pixels    int `json:"pixels"`    // bytes of each
	Embedding int `json:"embedding"` // values of each
}

func (j *miniJudge) Pack(teacher []Features) ([]byte, error) {
	looks := looksOf(teacher[:min(len(teacher), compared)])
	if len(looks) == 0 {
		return nil, nil
	}
	head := packed{Images: len(looks), Pixels: len(looks[0].small), Embedding: len(looks[0].Whole.Embedding)}
	line, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(append(line, '\n'))
	for _, l := range looks {
		out.Write(l.small)
	}
	for _, l := range looks {
		for _, v := range l.Whole.Embedding {
			if err := binary.Write(out, binary.LittleEndian, float32(v)); err != nil {
				return nil, err
			}
		}
	}
	return out.Bytes(), nil
}

func (j *miniJudge) Unpack(raw []byte) ([]Features, error) {
	line, rest, _ := bytes.Cut(raw, []byte{'\n'})
	var head packed
	if err := json.Unmarshal(line, &head); err != nil {
		return nil, fmt.Errorf("the teacher's images: %w", err)
	}
	if head.Images < 1 || head.Pixels < 1 || head.Embedding < 1 || len(rest) != head.Images*(head.Pixels+4*head.Embedding) {
		return nil, fmt.Errorf("the teacher's images: %d bytes do not hold %d of %d pixels and %d values", len(rest), head.Images, head.Pixels, head.Embedding)
	}
	values := rest[head.Images*head.Pixels:]
	out := make([]Features, head.Images)
	for i := range out {
		l := look{small: rest[i*head.Pixels : (i+1)*head.Pixels]}
		embedding := make([]float32, head.Embedding)
		if err := binary.Read(bytes.NewReader(values[4*i*head.Embedding:]), binary.LittleEndian, embedding); err != nil {
			return nil, err
		}
		l.Features = metric.Features{Whole: metric.View{Embedding: make([]float64, head.Embedding)}}
		for k, v := range embedding {
			l.Whole.Embedding[k] = float64(v)
		}
		out[i] = l
	}
	return out, nil
}
