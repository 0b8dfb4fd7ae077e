package scenes

import "math"

// rgb is a colour in sRGB, 0…1.
type rgb [3]float64

func (a rgb) to(b rgb, t float64) (c rgb) {
	for i := range c {
		c[i] = a[i] + float64(t*(b[i]-a[i]))
	}
	return c
}

// hsv makes a colour of hue (in turns), saturation and value.
func hsv(h, s, v float64) (c rgb) {
	for i := range c {
		x := h + []float64{0, 2.0 / 3, 1.0 / 3}[i]
		x = math.Abs((x-math.Floor(x))*6 - 3)
		c[i] = v * (1 - float64(s*(1-min(max(x-1, 0), 1))))
	}
	return c
}

// paint gives a background's colour at (x, y) in 0…1, y downwards.
type paint func(x, y float64) rgb

// A background is what captions say of what is behind the objects; make draws what they leave open.
type background struct {
	words   string
	weight  float64
	horizon float64 // of a landscape, from above; 0 = none
	make    func(g *rng) paint
}

var backgrounds = []background{
	{"on red", 1, 0, plain(0.98, 1.03, 0.55, 0.95)},
	{"on yellow", 1, 0, plain(0.12, 0.17, 0.5, 0.9)},
	{"on green", 1, 0, plain(0.30, 0.40, 0.35, 0.8)},
	{"on blue", 1, 0, plain(0.55, 0.64, 0.4, 0.9)},
	{"on pink", 1, 0, plain(0.88, 0.94, 0.25, 0.55)},
	{"on white", 1, 0, plain(0, 1, 0, 0.03)},
	{"on a gradient", 1.2, 0, gradient},
	{"on stripes", 1.2, 0, stripes},
	{"on dots", 1.2, 0, dots},
	{"on checks", 1.2, 0, checks},
	{"on grass", 1.6, 0.5, landscape(hsv(0.57, 0.45, 0.95), hsv(0.57, 0.15, 1), hsv(0.28, 0.65, 0.7), hsv(0.26, 0.7, 0.5), 0.5)},
	{"by the sea", 1.6, 0.5, sea},
	{"in the desert", 1.6, 0.5, landscape(hsv(0.56, 0.5, 0.9), hsv(0.1, 0.25, 1), hsv(0.11, 0.5, 0.95), hsv(0.08, 0.6, 0.75), 0.2)},
	{"in the snow", 1.6, 0.5, snow},
	{"at night", 1.6, 0.55, night},
}

var backgroundWeights = func() (w []float64) {
	for _, b := range backgrounds {
		w = append(w, b.weight)
	}
	return w
}()

// plain is one colour of a range of hues, a little darker towards the corners.
func plain(h0, h1, s0, s1 float64) func(*rng) paint {
	return func(g *rng) paint {
		c := hsv(g.between(h0, h1), g.between(s0, s1), g.between(0.8, 1))
		dark := g.between(0, 0.35)
		return func(x, y float64) rgb {
			x, y = x-0.5, y-0.5
			return c.to(rgb{}, float64(dark*(float64(x*x)+float64(y*y))))
		}
	}
}

// anyColour is a colour of any hue.
func anyColour(g *rng) rgb { return hsv(g.unit(), g.between(0.15, 0.8), g.between(0.55, 1)) }

// pair is two colours that differ clearly in brightness or hue.
func pair(g *rng) (rgb, rgb) {
	h := g.unit()
	a := hsv(h, g.between(0.2, 0.8), g.between(0.75, 1))
	return a, hsv(h+g.between(0.15, 0.5), g.between(0.1, 0.7), g.between(0.45, 0.8))
}

func gradient(g *rng) paint {
	a, b := anyColour(g), anyColour(g)
	angle := g.between(0, 2*math.Pi)
	sin, cos := math.Sincos(angle)
	return func(x, y float64) rgb {
		return a.to(b, min(max(0.5+float64((x-0.5)*cos)+float64((y-0.5)*sin), 0), 1))
	}
}

// wave is a periodic function with soft edges: −1…1, of period 1.
func wave(x float64) float64 { return min(max(6*math.Sin(2*math.Pi*x), -1), 1) }

func stripes(g *rng) paint {
	a, b := pair(g)
	sin, cos := math.Sincos(g.between(0, math.Pi))
	n, at := g.between(3, 7), g.unit()
	return func(x, y float64) rgb {
		return a.to(b, 0.5+0.5*wave(float64(n*(float64(x*cos)+float64(y*sin)))+at))
	}
}

func dots(g *rng) paint {
	a, b := pair(g)
	n, r := g.between(4, 8), g.between(0.2, 0.4)
	u, v := g.unit(), g.unit()
	return func(x, y float64) rgb {
		x, y = float64(n*x)+u, float64(n*y)+v
		row := math.Floor(y)
		x += 0.5 * (row - float64(2*math.Floor(row/2)))
		d := math.Hypot(x-math.Floor(x)-0.5, y-row-0.5)
		return a.to(b, min(max(0.5+float64((r-d)*8), 0), 1))
	}
}

func checks(g *rng) paint {
	a, b := pair(g)
	n, u, v := g.between(1.5, 4), g.unit(), g.unit()
	return func(x, y float64) rgb {
		return a.to(b, 0.5+0.5*float64(wave(float64(n*x)+u)*wave(float64(n*y)+v)))
	}
}

// vary changes a colour a little in hue-free ways.
func vary(g *rng, c rgb) rgb {
	k := g.between(0.85, 1.1)
	for i := range c {
		c[i] = min(float64(c[i]*k)+g.between(-0.05, 0.05), 1)
	}
	return c
}

// hills is a horizon: a sum of waves around 0.
func hills(g *rng, height float64) func(x float64) float64 {
	a1, a2 := g.between(0.3, 1)*height, g.between(0.1, 0.5)*height
	f1, f2 := g.between(0.4, 1.2), g.between(1.5, 3)
	p1, p2 := g.unit(), g.unit()
	return func(x float64) float64 {
		return float64(a1*math.Sin(2*math.Pi*(float64(f1*x)+p1))) + float64(a2*math.Sin(2*math.Pi*(float64(f2*x)+p2)))
	}
}

// disc is a soft round spot: 1 inside.
func disc(x, y, cx, cy, r float64) float64 {
	return min(max(0.5+float64((r-math.Hypot(x-cx, y-cy))*40), 0), 1)
}

// landscape is a sky above hills, with a sun in some, grain on the ground.
func landscape(skyTop, skyLow, near, far rgb, grain float64) func(*rng) paint {
	return func(g *rng) paint {
		skyTop, skyLow, near, far := vary(g, skyTop), vary(g, skyLow), vary(g, near), vary(g, far)
		line, at := hills(g, 0.06), g.between(0.42, 0.58)
		sun, sx, sy, sr := g.unit() < 0.5, g.unit(), g.between(0.08, 0.3), g.between(0.05, 0.09)
		f, p := g.between(9, 16), g.unit()
		return func(x, y float64) rgb {
			ground := min(max(float64((y-at-line(x))*60), 0), 1)
			sky := skyTop.to(skyLow, min(y/at, 1))
			if sun {
				sky = sky.to(rgb{1, 0.95, 0.6}, disc(x, y, sx, sy, sr))
			}
			soil := far.to(near, min(max((y-at)/(1-at), 0), 1))
			soil = soil.to(rgb{}, float64(0.16*grain*(0.5+0.5*math.Sin(2*math.Pi*(float64(f*y)+p+float64(0.8*math.Sin(7*x))))*math.Sin(40*x))))
			return sky.to(soil, ground)
		}
	}
}

func sea(g *rng) paint {
	top, low := vary(g, hsv(0.56, 0.4, 0.95)), vary(g, hsv(0.08, 0.2, 1))
	near, far := vary(g, hsv(0.5, 0.6, 0.75)), vary(g, hsv(0.6, 0.75, 0.55))
	sand := vary(g, hsv(0.12, 0.35, 0.95))
	at, beach := g.between(0.4, 0.52), g.between(0.72, 0.9)
	f, p := g.between(10, 16), g.unit()
	shore := hills(g, 0.04)
	return func(x, y float64) rgb {
		c := top.to(low, min(y/at, 1))
		water := far.to(near, min(max((y-at)/(beach-at), 0), 1))
		water = water.to(rgb{1, 1, 1}, 0.22*max(0, math.Sin(2*math.Pi*(float64(f*y)+p+float64(0.3*math.Sin(9*x))))))
		c = c.to(water, min(max(float64((y-at)*90), 0), 1))
		return c.to(sand, min(max(float64((y-beach-shore(x))*50), 0), 1))
	}
}

// points are n soft spots of a layer above the ground.
func points(g *rng, n int, below, r0, r1 float64) func(x, y float64) float64 {
	type spot struct{ x, y, r float64 }
	all := make([]spot, n)
	for i := range all {
		all[i] = spot{g.unit(), below * g.unit(), g.between(r0, r1)}
	}
	return func(x, y float64) (v float64) {
		for _, s := range all {
			if dx, dy := x-s.x, y-s.y; math.Abs(dx) < 2*s.r && math.Abs(dy) < 2*s.r {
				v = max(v, 1-float64((float64(dx*dx)+float64(dy*dy))/float64(s.r*s.r)))
			}
		}
		return v
	}
}

func snow(g *rng) paint {
	base := landscape(hsv(0.58, 0.25, 0.85), hsv(0.58, 0.1, 0.95), hsv(0.55, 0.02, 1), hsv(0.57, 0.12, 0.9), 0.1)(g)
	flakes := points(g, 24, 1, 0.008, 0.018)
	return func(x, y float64) rgb { return base(x, y).to(rgb{1, 1, 1}, flakes(x, y)) }
}

func night(g *rng) paint {
	top, low := vary(g, hsv(0.65, 0.8, 0.2)), vary(g, hsv(0.7, 0.6, 0.4))
	near := vary(g, hsv(0.6, 0.5, 0.28))
	stars := points(g, 22, 0.5, 0.006, 0.012)
	line, at := hills(g, 0.06), g.between(0.5, 0.65)
	mx, my, mr, cut := g.unit(), g.between(0.08, 0.3), g.between(0.05, 0.09), g.between(0.3, 1.2)
	return func(x, y float64) rgb {
		c := top.to(low, min(y/at, 1))
		c = c.to(rgb{1, 1, 0.9}, stars(x, y))
		c = c.to(rgb{1, 0.97, 0.8}, disc(x, y, mx, my, mr)*(1-disc(x, y, mx+float64(cut*mr), my-float64(0.3*mr), mr)))
		return c.to(near, min(max(float64((y-at-line(x))*60), 0), 1))
	}
}
