package source

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Names that data sets give their columns, in order of preference, compared in lower case.
var (
	imageNames   = []string{"image.bytes", "image", "image_bytes", "bytes", "jpg.bytes", "jpg", "png.bytes", "png", "webp.bytes", "webp", "jpeg.bytes", "jpeg", "avif", "img.bytes", "img", "image_data", "picture", "image_binary"}
	captionNames = []string{"caption", "text", "prompt", "txt", "captions", "json.caption", "json.text", "json.prompt", "texts", "sentence", "sentences", "sentences_raw", "caption_0", "caption_llava", "top_caption", "alt_text", "description", "blip_caption", "text_raw"}
	keyNames     = []string{"key", "id", "__key__", "uid", "image.path", "file_name", "filename", "image_id", "hash", "sha256"}
	pathNames    = []string{"image.path", "jpg.path", "png.path", "file_name", "filename", "image_path", "path"}
	addressNames = []string{"url", "image_url"}
)

// nameOf finds the first of names among a source's columns, in any case.
func nameOf(columns []string, names []string) (found string, ok bool) {
	for _, want := range names {
		for _, have := range columns {
			if strings.ToLower(have) == want {
				return have, true
			}
		}
	}
	return "", false
}

// fromColumns fills what a row does not say yet from named values, as a JSON side file or a line of metadata has them, and
// keeps the others as columns.
func fromColumns(e *entry, columns map[string]any) {
	if len(columns) == 0 {
		return
	}
	names := make([]string, 0, len(columns))
	for name := range columns {
		names = append(names, name)
	}
	slices.Sort(names)
	if name, ok := nameOf(names, captionNames); ok && e.Caption == "" {
		if texts := textsOf(columns[name]); len(texts) > 0 {
			e.Caption, e.Also = texts[0], texts[1:]
			delete(columns, name)
		}
	}
	for _, name := range names {
		v, ok := columns[name]
		if !ok {
			continue
		}
		s, isText := v.(string)
		switch lower := strings.ToLower(name); {
		case isText && lower == "kind" && e.Kind == "":
			e.Kind = s
		case isText && lower == "coarse" && e.Coarse == "":
			e.Coarse = s
		case isText && lower == "concept" && e.Concept == "":
			e.Concept = s
		case isText && lower == "style" && e.Style == "":
			e.Style = s
		case isText && lower == "split" && e.Split == "":
			e.Split = s
		case lower == "weight":
			if w, isNumber := v.(float64); isNumber {
				e.Weight = float32(w)
			}
		case lower == exifColumn:
			e.addExif(v)
		default:
			if v, keep := scalar(v); keep {
				if e.columns == nil {
					e.columns = map[string]any{}
				}
				if _, have := e.columns[name]; !have {
					e.columns[name] = v
				}
			}
		}
	}
}

// scalar says whether a value is one that filters can use: a number, a truth or a short text.
func scalar(v any) (any, bool) {
	switch v := v.(type) {
	case bool, int, int64:
		return v, true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	case string:
		return v, len(v) <= 512 && v != "" && utf8.ValidString(v)
	}
	return nil, false
}

// textsOf reads a caption or a list of them.
func textsOf(v any) (out []string) {
	switch v := v.(type) {
	case string:
		out = append(out, v)
	case []any:
		for _, each := range v {
			if s, ok := each.(string); ok {
				out = append(out, s)
			}
		}
	case []string:
		out = v
	}
	return nonEmpty(out)
}

// joined is what a parquet file says of a tar's samples, by key.
type joined struct {
	name string
	rows map[string]entry
	seen map[string]bool
	// failed counts the rows that the tar lacks because they could not be fetched, by reason.
	failed tally
}

// missing notes what the tar lacks.
func (j *joined) missing(b *builder) {
	for reason, s := range j.failed {
		b.skipped.addN(reason, s.Example, s.Count)
	}
	n, example := 0, ""
	for key := range j.rows {
		if !j.seen[key] {
			n++
			if example == "" || key < example {
				example = key
			}
		}
	}
	b.skipped.addN("rows of a parquet file that the tar beside it lacks", j.name+": "+example, n)
}

// failure is img2dataset's reason of a row without an image; "" where it succeeded.
func failure(columns map[string]any) string {
	status, ok := columns["status"].(string)
	if !ok || status == "success" || status == "" {
		return ""
	}
	if why, ok := columns["error_message"].(string); ok && why != "" {
		return fmt.Sprintf("rows without an image: %s: %s", status, firstWords(why))
	}
	return "rows without an image: " + status
}

// firstWords shortens a message to what is alike in many.
func firstWords(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
