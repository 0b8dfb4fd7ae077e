package source

import (
	"encoding/json"
	"fmt"
	"strings"

	"fewstep/data/images"
)

// img2dataset encodes images anew without their EXIF block, and does not turn them: how they are to be turned stands in a
// column alone, as JSON of the names and values that the library exifread prints.
const (
	exifColumn  = "exif"
	orientation = "Image Orientation"
)

// turnedColumn is the column of an index that holds what the EXIF column says, 2 to 8.
const turnedColumn = "exif_orientation"

// turns are exifread's words for orientations, from 1 on.
var turns = []string{"horizontal (normal)", "mirrored horizontal", "rotated 180", "mirrored vertical", "mirrored horizontal then rotated 90 ccw",
	"rotated 90 cw", "mirrored horizontal then rotated 90 cw", "rotated 90 ccw"}

// addExif takes the orientation out of an EXIF column, which is JSON or was.
func (e *entry) addExif(v any) {
	fields, ok := v.(map[string]any)
	if text, isText := v.(string); isText {
		ok = json.Unmarshal([]byte(text), &fields) == nil
	}
	if !ok {
		return
	}
	said := strings.ToLower(strings.TrimSpace(fmt.Sprint(fields[orientation])))
	for i, words := range turns {
		if o := i + 1; o > 1 && (said == words || said == fmt.Sprint(o)) {
			if e.columns == nil {
				e.columns = map[string]any{}
			}
			e.columns[turnedColumn] = o
		}
	}
}

// turned marks an image with what its row's columns say of its orientation.
func turned(content []byte, columns string) []byte { return images.Oriented(content, turnOf(columns)) }

// turnOf reads the orientation out of an index's columns; 0 = they say none.
func turnOf(columns string) int {
	if !strings.Contains(columns, turnedColumn) {
		return 0
	}
	var known struct {
		Orientation int `json:"exif_orientation"`
	}
	_ = json.Unmarshal([]byte(columns), &known) // written by this package
	return known.Orientation
}
