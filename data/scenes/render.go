package scenes

import (
	"image"
	"math"
)

// Draw renders a scene as a square of opaque pixels. Samples lie four to a pixel in the background's details and one to a
// pixel in sprites, which are read at the size nearest to theirs.
func (r *Renderer) Draw(s Scene, side int) *image.NRGBA {
	pix := make([]float32, side*side*3)
	drawBackground(pix, side, backgrounds[s.background].make(stream(s.look, 0, 1)))
	ground := backgrounds[s.background].horizon > 0
	for _, o := range s.Objects {
		shadow(pix, side, o, s.light, ground)
		r.drawSprite(pix, side, o)
	}
	out := image.NewNRGBA(image.Rect(0, 0, side, side))
	for i := range side * side {
		for c := range 3 {
			out.Pix[4*i+c] = uint8(min(max(pix[3*i+c], 0), 1)*255 + 0.5)
		}
		out.Pix[4*i+3] = 255
	}
	return out
}

// drawBackground averages two samples a pixel, on its diagonal.
func drawBackground(pix []float32, side int, p paint) {
	n := float64(side)
	for y := range side {
		for x := range side {
			a, b := p((float64(x)+0.25)/n, (float64(y)+0.25)/n), p((float64(x)+0.75)/n, (float64(y)+0.75)/n)
			for c := range 3 {
				pix[(y*side+x)*3+c] = float32(0.5 * (a[c] + b[c]))
			}
		}
	}
}

// shadow darkens a soft ellipse: at the feet of what stands on the ground, behind what hangs before a wall.
func shadow(pix []float32, side int, o Object, light float64, ground bool) {
	n := float64(side)
	cx, cy, rx, ry, strength := o.x+float64(0.12*light*o.size), o.y+0.06*o.size, 0.46*o.size, 0.46*o.size, 0.28
	if ground {
		cx, cy, rx, ry, strength = o.x+float64(0.15*light*o.size), o.y+0.44*o.size, 0.42*o.size, 0.12*o.size, 0.42
	}
	for y := max(int((cy-ry)*n), 0); y < min(int((cy+ry)*n)+1, side); y++ {
		for x := max(int((cx-rx)*n), 0); x < min(int((cx+rx)*n)+1, side); x++ {
			dx, dy := ((float64(x)+0.5)/n-cx)/rx, ((float64(y)+0.5)/n-cy)/ry
			d := float64(dx*dx) + float64(dy*dy)
			if d >= 1 {
				continue
			}
			k := float32(1 - float64(strength*float64((1-d)*(1-d))))
			for c := range 3 {
				pix[(y*side+x)*3+c] *= k
			}
		}
	}
}

// drawSprite lays a turned, scaled sprite over the picture.
func (r *Renderer) drawSprite(pix []float32, side int, o Object) {
	sp := r.sprites.of[o.concept][o.sprite]
	want := o.size * float64(side)
	l := sp[0]
	for _, next := range sp[1:] { // the smallest that is not smaller than what is drawn
		if float64(next.side) >= want {
			l = next
		}
	}
	n := float64(side)
	sin, cos := math.Sincos(o.turn)
	scale := float64(l.side) / want
	reach := 0.71 * o.size
	var px [4]float32
	for y := max(int((o.y-reach)*n), 0); y < min(int((o.y+reach)*n)+1, side); y++ {
		for x := max(int((o.x-reach)*n), 0); x < min(int((o.x+reach)*n)+1, side); x++ {
			dx, dy := float64(x)+0.5-float64(o.x*n), float64(y)+0.5-float64(o.y*n)
			u, v := float64(dx*cos)+float64(dy*sin), float64(dy*cos)-float64(dx*sin)
			if o.mirror {
				u = -u
			}
			half := float64(l.side) / 2
			l.at(float32(float64(u*scale)+half), float32(float64(v*scale)+half), &px)
			if px[3] <= 0 {
				continue
			}
			for c := range 3 {
				at := (y*side+x)*3 + c
				pix[at] = px[c] + float32(pix[at]*(1-px[3]))
			}
		}
	}
}
