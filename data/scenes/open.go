package scenes

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fewstep/internal/text"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Spec is the file that stands for a source of scenes: *.scenes.json.
type Spec struct {
	Scenes   int              `json:"scenes"`  // Version of the renderer that the file was made for
	Sprites  string           `json:"sprites"` // zip file of sprites, relative to the spec's folder
	Side     int              `json:"side"`    // of the pictures in pixels
	Seed     uint64           `json:"seed"`
	Concepts []string         `json:"concepts,omitempty"` // what is shown, by singular nouns as in captions ("dog"); empty = all concepts
	Objects  int              `json:"objects,omitempty"`  // most objects of a scene, 1 to 3; 0 = 3
	Looks    int              `json:"looks,omitempty"`    // most code points that a concept's sprites come from, the first of its list; 0 = all
	Samples  map[string]int64 `json:"samples"`            // pictures of each split
}

// Renderer draws the scenes of a spec. It is safe for concurrent use.
type Renderer struct {
	spec    Spec
	sprites *Sprites
	shown   []int // indices of the concepts that are shown
}

// Open reads a spec and its sprites.
func Open(path string) (*Renderer, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Renderer{}
	if err := text.StrictJSON(raw, &r.spec); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s := r.spec
	switch {
	case s.Scenes != Version:
		return nil, fmt.Errorf("%s: scenes is %d, this renderer draws version %d: other versions give other pictures; set scenes to %d to take them", path, s.Scenes, Version, Version)
	case s.Side < 16 || s.Side > 1024:
		return nil, fmt.Errorf("%s: side is %d pixels; want 16 to 1024", path, s.Side)
	case len(s.Samples) == 0:
		return nil, fmt.Errorf("%s: samples is empty; give a number for each of the splits %v", path, Splits)
	}
	var total int64
	for name, n := range s.Samples {
		if !slices.Contains(Splits, name) {
			return nil, fmt.Errorf("%s: samples has a split %q; the splits are %v", path, name, Splits)
		}
		if n < 0 || n > 1<<24 {
			return nil, fmt.Errorf("%s: samples of %q are %d; want 0 to %d", path, name, n, 1<<24)
		}
		total += n
	}
	if total == 0 {
		return nil, fmt.Errorf("%s: samples are 0 in every split", path)
	}
	if r.shown, err = chosen(s.Concepts); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Objects < 0 || s.Objects > most {
		return nil, fmt.Errorf("%s: objects is %d; want 1 to %d, or 0 for %d", path, s.Objects, most, most)
	}
	if s.Looks < 0 {
		return nil, fmt.Errorf("%s: looks is %d; want a positive number, or 0 for all", path, s.Looks)
	}
	if r.sprites, err = OpenSprites(filepath.Join(filepath.Dir(path), s.Sprites), s.Looks); err != nil {
		return nil, fmt.Errorf("%s: sprites: %w", path, err)
	}
	for name, n := range s.Samples {
		if _, ok := r.scene(name, 0, 1<<14); n > 0 && !ok {
			return nil, fmt.Errorf("%s: the split %q is empty: so few concepts and objects have no combination for it; allow more, or set its samples to 0", path, name)
		}
	}
	return r, nil
}

// Spec returns what the file says.
func (r *Renderer) Spec() Spec { return r.spec }

// chosen finds concepts by their nouns, in the table's order.
func chosen(names []string) (out []int, err error) {
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	for i, c := range concepts {
		if name := noun(c.one); len(names) == 0 || wanted[name] {
			out = append(out, i)
			delete(wanted, name)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("concepts names %v, which no sprite shows", slices.Sorted(maps.Keys(wanted)))
	}
	if len(out) < 2 {
		return nil, fmt.Errorf("concepts names one thing alone; scenes need two at least")
	}
	return out, nil
}

// Digest stands for every pixel: of the renderer's version, the spec and the sprites.
func (r *Renderer) Digest() string {
	raw, err := json.Marshal(r.spec)
	if err != nil {
		panic(err) // numbers, texts and a map of these
	}
	sum := sha256.Sum256(append(raw, r.sprites.Digest...))
	return hex.EncodeToString(sum[:])
}
