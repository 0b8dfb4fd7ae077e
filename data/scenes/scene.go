// Package scenes is a data source without end: pictures composed of real sprites by a deterministic renderer, and captions
// that tell a part of each.
//
// Sample i of a split is a function of (seed, split, i): one to three objects of one or two concepts on a background.
// The captions tell concepts, counts and the kind of background. They never tell which sprite was drawn, its style, place,
// size, turn or mirroring, nor the background's colours and details: every caption has images without number.
//
// Some combinations of concepts, counts and backgrounds are held out: the splits "eval" and "reference" hold these
// alone, the split "train" none of them.
//
//	r, err := scenes.Open("assets/scenes/scenes.json")
//	s := r.Scene("train", 7)   // what is in it
//	img := r.Draw(s, 128)      // 128 × 128 pixels
package scenes

import (
	"hash/fnv"
	"math"
	"slices"
	"strings"
)

// Splits of the source. "reference" has the distribution of "eval" and other samples.
var Splits = []string{"train", "eval", "reference"}

// Version of the renderer: another one gives other pixels or captions for the same sample.
const Version = 1

// heldOut is the part of all combinations that "train" never shows.
const heldOut = 0.12

// most is the largest number of objects.
const most = 3

// Scene is what a picture shows.
type Scene struct {
	Objects    []Object // from the back to the front
	background int
	look       uint64 // of everything that the background leaves open
	light      float64
}

// Object is a thing in a scene. Lengths are in sides of the picture.
type Object struct {
	concept, sprite int
	x, y            float64 // middle
	size            float64 // side of the sprite
	turn            float64 // radians
	mirror          bool
}

// Scene returns sample i of a split.
func (r *Renderer) Scene(split string, i int64) Scene {
	s, _ := r.scene(split, i, math.MaxUint64)
	return s
}

// scene looks among so many combinations for one of the split's.
func (r *Renderer) scene(split string, i int64, tries uint64) (s Scene, found bool) {
	seed := r.spec.Seed + uint64(slices.Index(Splits, split))*0x51ed27
	for try := range tries {
		g := stream(seed, uint64(i), 2*try)
		s.Objects, s.background = r.combination(g), g.pick(backgroundWeights...)
		if m := r.spec.Objects; m > 0 && len(s.Objects) > m {
			continue
		}
		if s.held() != (split == "train") {
			s.look, s.light = g.bits(), g.between(-0.8, 0.8)
			r.arrange(&s, g)
			return s, true
		}
	}
	return s, false
}

// combination draws concepts and counts.
func (r *Renderer) combination(g *rng) (out []Object) {
	add := func(concept, n int) {
		for range n {
			out = append(out, Object{concept: concept})
		}
	}
	first := g.below(len(r.shown))
	if g.unit() < 0.45 {
		add(r.shown[first], 1+g.pick(0.55, 0.27, 0.18))
		return out
	}
	second := g.below(len(r.shown) - 1)
	if second >= first {
		second++
	}
	counts := [][2]int{{1, 1}, {2, 1}, {1, 2}}[g.pick(0.7, 0.15, 0.15)]
	add(r.shown[first], counts[0])
	add(r.shown[second], counts[1])
	return out
}

// held says whether the scene's combination is held out: of two concepts their pair, of one concept its count and background.
func (s *Scene) held() bool {
	h := fnv.New64a()
	for _, name := range s.parts() {
		h.Write([]byte(name + "\x00"))
	}
	return float64(mix(h.Sum64())>>11)/(1<<53) < heldOut
}

func (s *Scene) parts() (names []string) {
	for _, o := range s.Objects {
		names = append(names, concepts[o.concept].one)
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) == 1 {
		names = append(names, numbers[len(s.Objects)], backgrounds[s.background].words)
	}
	return names
}

// arrange places the objects: large where there are few, apart from each other where a few tries can have it.
func (r *Renderer) arrange(s *Scene, g *rng) {
	n := len(s.Objects)
	small, large := [most + 1]float64{0, 0.5, 0.36, 0.3}[n], [most + 1]float64{0, 0.85, 0.56, 0.44}[n]
	floor := backgrounds[s.background].horizon
	for k := range s.Objects {
		o := &s.Objects[k]
		o.sprite = g.below(len(r.sprites.of[o.concept]))
		o.size = g.between(small, large)
		o.turn = g.between(-1, 1)
		o.turn = 0.3 * o.turn * math.Abs(o.turn) // most stand nearly upright
		o.mirror = g.unit() < 0.5
		best := math.Inf(-1)
		for range 6 {
			x, y := g.between(0.46*o.size, 1-0.46*o.size), g.between(0.46*o.size, 1-0.46*o.size)
			if floor > 0 { // things stand on the ground of a landscape: their feet are below the horizon
				y = max(y, min(floor+0.12-0.5*o.size+0.3*g.unit(), 1-0.46*o.size))
			}
			room := 1.0
			for _, other := range s.Objects[:k] {
				d := math.Hypot(x-other.x, y-other.y) - 0.42*(o.size+other.size)
				room = min(room, d)
			}
			if room > best {
				best, o.x, o.y = room, x, y
			}
			if room > 0 {
				break
			}
		}
	}
	slices.SortStableFunc(s.Objects, func(a, b Object) int { // what stands lower is nearer
		switch {
		case a.y+a.size/2 < b.y+b.size/2:
			return -1
		case a.y+a.size/2 > b.y+b.size/2:
			return 1
		}
		return 0
	})
}

var numbers = [most + 1]string{"no", "one", "two", "three"}

// counted names what is there n times.
func counted(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return numbers[n] + " " + many
}

// Captions of a scene, each telling less than the one before: concepts, counts and background; without the background;
// groups and counts alone.
func (s *Scene) Captions() (fine, kind, coarse string) {
	count := map[int]int{}
	group := map[int]int{}
	for _, o := range s.Objects {
		count[o.concept]++
		group[concepts[o.concept].group]++
	}
	var things, kinds []string
	for i, c := range concepts {
		if n := count[i]; n > 0 {
			things = append(things, counted(n, c.one, c.many))
		}
	}
	for i, g := range groups {
		if n := group[i]; n > 0 {
			kinds = append(kinds, counted(n, g.one, g.many))
		}
	}
	kind, coarse = strings.Join(things, " and "), strings.Join(kinds, " and ")
	return kind + " " + backgrounds[s.background].words, kind, coarse
}

// Half leaves out every second object, the front ones first, and one at least: a picture that its caption does not describe.
func (s Scene) Half() Scene {
	s.Objects = slices.Clone(s.Objects[:len(s.Objects)/2])
	return s
}
