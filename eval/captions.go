package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/data"
	"fewstep/internal/text"
)

// CaptionList is what a protocol draws: caption i is the prompt of image i.
type CaptionList struct {
	Protocol string   // "coco10k" or "captions"
	Path     string   // of the file they were read from
	SHA256   string   // of that file
	What     string   // how they were chosen, for a report
	Texts    []string //
	Files    []string // the real images' names, where the file says them: these alone are then measured from
	Each     int      // images of every caption: Texts is the list so many times over; 0 = 1
}

// Repeat makes it n images of every caption, so that their diversity can be measured: the whole list n times over. The
// first images are those of the list alone.
func (l *CaptionList) Repeat(n int) {
	l.Each, l.Texts = n, slices.Repeat(l.Texts, n)
}

// each says how many images a caption has.
func (l *CaptionList) each() string {
	if l.Each > 1 {
		return fmt.Sprintf("%d images each", l.Each)
	}
	return "one image each"
}

// COCO10K is the protocol of the published figures: the first 10,000 images of COCO-2014's validation set that
// captions_val2014.json names, by the order of its annotations, and of each image the annotation that stands first. Distances are measured from
// those images, where the file says their names and the reference is a folder.
const COCO10K = "coco10k"

const coco10kImages = 10_000

// ReadCaptions reads the captions of a protocol: "coco10k" (captions_val2014.json as COCO distributes it, or a parquet
// file with a caption column and one row per image) or "captions" (either of these, all of them). limit cuts the list
// after so many; 0 does not.
func ReadCaptions(protocol, path string, limit int) (*CaptionList, error) {
	if protocol != COCO10K && protocol != "captions" {
		return nil, fmt.Errorf("unknown protocol %q; there are mini, %s and captions", protocol, COCO10K)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	l := &CaptionList{Protocol: protocol, Path: path, SHA256: hex.EncodeToString(sum[:])}
	if strings.EqualFold(filepath.Ext(path), ".json") {
		l.What = "the first caption of each image, in the order of the file's annotations"
		l.Texts, l.Files, err = cocoCaptions(raw)
	} else {
		l.What = "one caption of each row, in the order of the file"
		l.Texts, err = data.ReadCaptions(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(l.Texts) == 0 {
		return nil, fmt.Errorf("%s holds no captions: there is nothing to draw", path)
	}
	if protocol == COCO10K {
		if len(l.Texts) < coco10kImages {
			return nil, fmt.Errorf("%s has captions of %d images, the protocol %s needs %d", path, len(l.Texts), COCO10K, coco10kImages)
		}
		l.Texts = l.Texts[:coco10kImages]
	}
	if limit > 0 && limit < len(l.Texts) {
		l.Texts = l.Texts[:limit]
	}
	l.Files = l.Files[:min(len(l.Files), len(l.Texts))]
	l.What = fmt.Sprintf("%d prompts: %s", len(l.Texts), l.What)
	return l, nil
}

// cocoCaptions reads COCO's annotations: the first caption of each image, in the order of the file, and the images'
// file names if it has them all.
func cocoCaptions(raw []byte) (texts, files []string, err error) {
	var file struct {
		Images []struct {
			ID   int64  `json:"id"`
			File string `json:"file_name"`
		} `json:"images"`
		Annotations []struct {
			Image   *int64  `json:"image_id"`
			Caption *string `json:"caption"`
		} `json:"annotations"`
	}
	content, err := text.Decode(raw)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal([]byte(content), &file); err != nil {
		return nil, nil, fmt.Errorf("not COCO's captions: %w", err)
	}
	if len(file.Annotations) == 0 {
		return nil, nil, fmt.Errorf("not COCO's captions: it has no annotations")
	}
	names := map[int64]string{}
	for _, img := range file.Images {
		names[img.ID] = img.File
	}
	seen := map[int64]bool{}
	for i, a := range file.Annotations {
		if a.Image == nil || a.Caption == nil {
			return nil, nil, fmt.Errorf("annotation %d has no image_id or no caption: is this captions_val2014.json, not the instances or the keypoints?", i)
		}
		if seen[*a.Image] {
			continue
		}
		caption := strings.TrimSpace(*a.Caption)
		if caption == "" {
			return nil, nil, fmt.Errorf("annotation %d, image %d: empty caption", i, *a.Image)
		}
		seen[*a.Image] = true
		texts = append(texts, caption)
		if name := names[*a.Image]; name != "" {
			files = append(files, name)
		}
	}
	if len(files) < len(texts) {
		files = nil
	}
	return texts, files, nil
}
