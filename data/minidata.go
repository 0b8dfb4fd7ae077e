package data

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fewstep/data/shuffle"

	xdraw "golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // the 3D emoji are WebP
)

// skinToneWeight multiplies the weight of an image that repeats another one in
// a different skin colour. Such images share all their captions.
const skinToneWeight = 0.12

// Paths inside the folders to which the npm packages were unpacked; see
// scripts/mini_data.sh.
const (
	notoList     = "emoji-datasource-google/emoji.json"
	notoImages   = "emoji-datasource-google/img/google/64"
	fluentImages = "fluent-emoji-3d/assets"
	openMojiList = "openmoji/data/openmoji.json"
)

// MiniOptions says how BuildMini makes its images and splits. The zero value of
// a field stands for its default.
type MiniOptions struct {
	Size     int     // image side in pixels; 0 = 64
	EvalPart float64 // part of the (concept, style) pairs held out; 0 = 0.12
	Keep     int     // about this many images, chosen to stand for all; 0 = all
}

// MiniStats counts what BuildMini wrote.
type MiniStats struct {
	Rows, Train, Eval int
	Captions          int // different fine captions
	Kinds             int // different kind captions
	Coarse            int // different coarse captions
}

type miniEmoji struct {
	Unified        string `json:"unified"`
	Image          string `json:"image"`
	Subcategory    string `json:"subcategory"`
	HasGoogle      bool   `json:"has_img_google"`
	SkinVariations map[string]struct {
		Unified   string `json:"unified"`
		Image     string `json:"image"`
		HasGoogle bool   `json:"has_img_google"`
	} `json:"skin_variations"`
}

type miniStyle struct {
	name, source, license string
	path                  func(code, notoName string, hasNoto bool) (string, bool)
}

// BuildMini makes the mini pipeline's captioned images from three npm packages
// unpacked below srcDir and writes them to the parquet file out: Noto emoji
// (emoji-datasource-google, Apache-2.0) and Fluent 3D emoji
// (@lobehub/fluent-emoji-3d, MIT) as PNG on white, captioned from OpenMoji's
// annotations (CC-BY-SA 4.0). The result depends on the packages and options
// alone.
func BuildMini(srcDir, out string, opt MiniOptions) (MiniStats, error) {
	if opt.Size == 0 {
		opt.Size = 64
	}
	if opt.EvalPart == 0 {
		opt.EvalPart = 0.12
	}
	var emoji []miniEmoji
	if err := readJSON(filepath.Join(srcDir, notoList), &emoji); err != nil {
		return MiniStats{}, err
	}
	annotations, err := readAnnotations(filepath.Join(srcDir, openMojiList))
	if err != nil {
		return MiniStats{}, err
	}
	styles, err := miniStyles(srcDir)
	if err != nil {
		return MiniStats{}, err
	}
	var records []Record
	for _, style := range styles {
		for _, e := range emoji {
			made, err := emojiRecords(e, style, annotations, opt)
			if err != nil {
				return MiniStats{}, err
			}
			records = append(records, made...)
		}
	}
	clearLonelyKinds(records)
	if opt.Keep > 0 {
		records = subset(records, opt.Keep)
	}
	if len(records) == 0 {
		return MiniStats{}, fmt.Errorf("mini data: no images below %s; unpack the packages that scripts/mini_data.sh names", srcDir)
	}
	return countMini(records), WriteParquet(out, records)
}

func miniStyles(srcDir string) ([]miniStyle, error) {
	dir := filepath.Join(srcDir, fluentImages)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("mini data: %w; run scripts/mini_data.sh to fetch the packages", err)
	}
	fluent := make(map[string]string, len(entries))
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".webp"); ok {
			fluent[normalCode(name)] = filepath.Join(dir, e.Name())
		}
	}
	return []miniStyle{{
		name: "noto", source: "emoji-datasource-google@16.0.0", license: "image Apache-2.0, caption CC-BY-SA-4.0",
		path: func(_, name string, has bool) (string, bool) {
			return filepath.Join(srcDir, notoImages, name), has
		},
	}, {
		name: "fluent 3d", source: "@lobehub/fluent-emoji-3d@1.1.0", license: "image MIT, caption CC-BY-SA-4.0",
		path: func(code, _ string, _ bool) (string, bool) {
			p, ok := fluent[code]
			return p, ok
		},
	}}, nil
}

// emojiRecords returns the rows of one emoji in one style: itself, then its
// one-person skin tones.
func emojiRecords(e miniEmoji, style miniStyle, annotations map[string]string, opt MiniOptions) ([]Record, error) {
	coarse, wanted := coarseWords[e.Subcategory]
	annotation, named := annotations[normalCode(e.Unified)]
	if !wanted || !named {
		return nil, nil
	}
	concept := cleanConcept(annotation)
	base := Record{
		Caption: concept + ", " + style.name + " style",
		Coarse:  coarse + ", " + style.name + " style",
		Concept: concept, Style: style.name, Split: "train",
		Weight: subgroupWeight(e.Subcategory, concept),
		Source: style.source, License: style.license,
	}
	if kind := conceptKind(e.Subcategory, concept); kind != "" {
		base.Kind = kind + ", " + style.name + " style"
	}
	if hashPart(concept, style.name) < opt.EvalPart {
		base.Split = "eval"
	}
	var records []Record
	add := func(unified, name string, has bool, weight float32) error {
		code := normalCode(unified)
		path, ok := style.path(code, name, has)
		if !ok {
			return nil
		}
		image, err := pngOnWhite(path, opt.Size)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		r := base
		r.Key = strings.ReplaceAll(style.name, " ", "-") + "/" + strings.ToLower(code)
		r.Image, r.Weight = image, weight
		records = append(records, r)
		return nil
	}
	if err := add(e.Unified, e.Image, e.HasGoogle, base.Weight); err != nil {
		return nil, err
	}
	tones := make([]string, 0, len(e.SkinVariations))
	for tone := range e.SkinVariations {
		if !strings.Contains(tone, "-") { // two tones at once: 25 pictures of one couple
			tones = append(tones, tone)
		}
	}
	slices.Sort(tones)
	for _, tone := range tones {
		v := e.SkinVariations[tone]
		if err := add(v.Unified, v.Image, v.HasGoogle, base.Weight*skinToneWeight); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// clearLonelyKinds drops a kind caption that only one concept has: it would be
// one more name for the same image, not a caption shared by several.
func clearLonelyKinds(records []Record) {
	concepts := map[string]map[string]bool{}
	for _, r := range records {
		if concepts[r.Kind] == nil {
			concepts[r.Kind] = map[string]bool{}
		}
		concepts[r.Kind][r.Concept] = true
	}
	for i, r := range records {
		if len(concepts[r.Kind]) < 2 || r.Kind == r.Coarse {
			records[i].Kind = ""
		}
	}
}

// subset chooses about keep rows that stand for all of them. Each (coarse
// caption, split) gets a share by the root of its weight, so that small groups
// keep several images; inside a group rows are drawn by weight (Efraimidis and
// Spirakis' keys, from a hash of the row's key). The group's weight is then
// spread evenly over its rows: the weighted distribution of groups stays.
func subset(records []Record, keep int) []Record {
	type group struct{ coarse, split string }
	members, weight := map[group][]int{}, map[group]float64{}
	rank := make([]float64, len(records))
	for i, r := range records {
		g := group{r.Coarse, r.Split}
		members[g] = append(members[g], i)
		weight[g] += float64(r.Weight)
		rank[i] = -math.Log(1-hashPart(r.Key, "subset")) / float64(r.Weight)
	}
	groups := slices.SortedFunc(maps.Keys(members), func(a, b group) int {
		return cmp.Or(cmp.Compare(a.coarse, b.coarse), cmp.Compare(a.split, b.split))
	})
	var roots float64
	for _, g := range groups {
		roots += math.Sqrt(weight[g])
	}
	var chosen []int
	share := map[int]float32{}
	for _, g := range groups {
		rows := members[g]
		slices.SortFunc(rows, func(a, b int) int { return cmp.Compare(rank[a], rank[b]) })
		n := int(math.Round(float64(keep) * math.Sqrt(weight[g]) / roots))
		rows = rows[:min(max(n, 1), len(rows))]
		chosen = append(chosen, rows...)
		for _, r := range rows {
			share[r] = float32(weight[g] / float64(len(rows)))
		}
	}
	slices.Sort(chosen)
	kept := make([]Record, len(chosen))
	for i, r := range chosen {
		kept[i] = records[r]
		kept[i].Weight = share[r]
	}
	return kept
}

func countMini(records []Record) MiniStats {
	s := MiniStats{Rows: len(records)}
	fine, kind, coarse := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range records {
		if r.Split == "eval" {
			s.Eval++
		} else {
			s.Train++
		}
		fine[r.Caption], kind[r.Kind], coarse[r.Coarse] = true, true, true
	}
	delete(kind, "")
	s.Captions, s.Kinds, s.Coarse = len(fine), len(kind), len(coarse)
	return s
}

// pngOnWhite reads an image file, lays it on white, reduces it to size × size
// pixels with an anti-aliasing cubic filter, and returns it as PNG.
func pngOnWhite(path string, size int) ([]byte, error) {
	encoded, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	img, _, err := image.Decode(bytes.NewReader(encoded)) // not images.Decode, whose white differs by a level: the data set is made
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	b := img.Bounds()
	white := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(white, white.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
	draw.Draw(white, white.Bounds(), img, b.Min, draw.Over)
	if b.Dx() != size || b.Dy() != size {
		small := image.NewRGBA(image.Rect(0, 0, size, size))
		xdraw.CatmullRom.Scale(small, small.Bounds(), white, white.Bounds(), xdraw.Src, nil)
		white = small
	}
	var buf bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestCompression}
	if err := enc.Encode(&buf, white); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return buf.Bytes(), nil
}

// normalCode spells a code point sequence as upper-case hexadecimal numbers of
// at least four digits without variation selectors, the one form in which the
// three packages agree.
func normalCode(code string) string {
	var parts []string
	for p := range strings.SplitSeq(strings.ToUpper(strings.ReplaceAll(code, "_", "-")), "-") {
		if p != "FE0F" {
			parts = append(parts, strings.Repeat("0", max(0, 4-len(p)))+p)
		}
	}
	return strings.Join(parts, "-")
}

func readAnnotations(path string) (map[string]string, error) {
	var list []struct {
		Hexcode    string `json:"hexcode"`
		Annotation string `json:"annotation"`
	}
	if err := readJSON(path, &list); err != nil {
		return nil, err
	}
	m := make(map[string]string, len(list))
	for _, e := range list {
		m[normalCode(e.Hexcode)] = e.Annotation
	}
	return m, nil
}

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("mini data: %w; run scripts/mini_data.sh to fetch the packages", err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("mini data: %s: %w", path, err)
	}
	return nil
}

// hashPart maps strings to [0, 1) by FNV-1a with a final mix.
func hashPart(parts ...string) float64 {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return float64(shuffle.Mix(h.Sum64())>>11) / (1 << 53)
}
