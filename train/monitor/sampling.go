package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
)

// SamplingTime is how long a model took to draw an image. It is wall-clock, so it goes to timing.jsonl beside the
// times of the steps and to no file that must be the same when a run is made again.
type SamplingTime struct {
	Model           string  `json:"model"`
	Kind            string  `json:"kind"`
	Steps           int     `json:"steps"`
	Calls           int     `json:"calls"` // network calls per image
	SecondsPerImage float64 `json:"seconds_per_image"`
	Busy            float64 `json:"busy,omitempty"` // share of the time in which it was drawing, while images were measured and filed beside it
	Device          string  `json:"device,omitempty"`
}

type samplingRow struct {
	Sampling *SamplingTime `json:"sampling"`
}

// AppendSampling adds a line to a timing.jsonl.
func AppendSampling(path string, t SamplingTime) error {
	f, err := openLines(path)
	if err != nil {
		return err
	}
	return errors.Join(appendLine(f, samplingRow{&t}), f.Close())
}

// ReadSampling reads the sampling times of a timing.jsonl, in order; a missing file has none. Other lines, and an
// unfinished last one, are passed over.
func ReadSampling(path string) ([]SamplingTime, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []SamplingTime
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var row samplingRow
		if json.Unmarshal(lines.Bytes(), &row) == nil && row.Sampling != nil {
			out = append(out, *row.Sampling)
		}
	}
	return out, lines.Err()
}
