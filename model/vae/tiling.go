package vae

import "fmt"

// Tiling cuts a picture into overlapping tiles for an encoder or decoder that would need too much memory for the whole.
// Neighbours are blended where they overlap, a quarter of a tile, as diffusers' tiled_encode and tiled_decode do; the
// result differs from that of the whole picture, since a tile's group norms and attention do not see the others.
//
// SDXL's decoder at 1024 px, f32 on two busy CPU cores: 4.6 GB at the peak and 80 s for the whole picture, 2.2 GB and
// 89 s in tiles of 512 px, 1.8 GB and 105 s in tiles of 256 px (engine/encoder, BenchmarkDecodeSDXL).
type Tiling struct {
	in, out int // side of a tile before and after
}

// DecodeTiles are tiles of side pixels for the decoder, side/f latents each.
func (c *Config) DecodeTiles(side int) (Tiling, error) {
	return Tiling{side / c.Factor(), side}, c.checkTile(side)
}

// EncodeTiles are tiles of side pixels for the encoder.
func (c *Config) EncodeTiles(side int) (Tiling, error) {
	return Tiling{side, side / c.Factor()}, c.checkTile(side)
}

// checkTile makes sure that overlaps are whole latents.
func (c *Config) checkTile(side int) error {
	if m := 4 * c.Factor(); side < m || side%m != 0 {
		return fmt.Errorf("a tile of %d pixels: the side must be a multiple of %d", side, m)
	}
	return nil
}

// Applies says whether a map of height and width, before, is larger than a tile.
func (t Tiling) Applies(height, width int) bool { return height > t.in || width > t.in }

// After is the length after encoding or decoding of what is n long before.
func (t Tiling) After(n int) int { return n * t.out / t.in }

// Tile is one tile of a map [height, width, channels].
type Tile struct {
	Height, Width int
	Values        []float32
}

// Run cuts every map [height, width, ·] in two dimensions, lets f map the tiles of one place, one per map, and puts the
// results together. Tiles at the right and lower edge are smaller.
func (t Tiling) Run(maps [][]float32, height, width int, f func(tiles []Tile) ([]Tile, error)) ([][]float32, error) {
	step := t.in * 3 / 4
	columns := (width + step - 1) / step
	out := make([]canvas, len(maps))
	above := make([][]Tile, len(maps)) // per map, the row of tiles before
	for i, y := 0, 0; y < height; i, y = i+1, y+step {
		rows := make([][]Tile, len(maps))
		for j := range columns {
			cut := make([]Tile, len(maps))
			for k, m := range maps {
				cut[k] = cutOut(m, height, width, y, j*step, t.in)
			}
			done, err := f(cut)
			if err != nil {
				return nil, err
			}
			for k, tile := range done {
				if i > 0 {
					blendDown(above[k][j], tile, t.out/4)
				}
				if j > 0 {
					blendRight(rows[k][j-1], tile, t.out/4)
				}
				rows[k] = append(rows[k], tile)
				out[k].place(tile, i*(t.out-t.out/4), j*(t.out-t.out/4), t.out-t.out/4, t.After(height), t.After(width))
			}
		}
		above = rows
	}
	results := make([][]float32, len(maps))
	for k := range out {
		results[k] = out[k].values
	}
	return results, nil
}

func cutOut(m []float32, height, width, y, x, side int) Tile {
	channels := len(m) / (height * width)
	t := Tile{Height: min(side, height-y), Width: min(side, width-x)}
	for row := range t.Height {
		at := ((y+row)*width + x) * channels
		t.Values = append(t.Values, m[at:at+t.Width*channels]...)
	}
	return t
}

// canvas is a map that tiles are placed on.
type canvas struct{ values []float32 }

// place copies the part of a tile that no later tile covers, keep rows and columns of it, to (y, x).
func (c *canvas) place(t Tile, y, x, keep, height, width int) {
	channels := len(t.Values) / (t.Height * t.Width)
	if c.values == nil {
		c.values = make([]float32, height*width*channels)
	}
	n := min(keep, t.Width) * channels
	for row := range min(keep, t.Height) {
		copy(c.values[((y+row)*width+x)*channels:], t.Values[row*t.Width*channels:][:n])
	}
}

// blendDown fades the last rows of the tile above into the first rows of t.
func blendDown(above, t Tile, extent int) {
	extent = min(above.Height, t.Height, extent)
	line := len(t.Values) / t.Height
	for y := range extent {
		a, b := above.Values[(above.Height-extent+y)*line:], t.Values[y*line:]
		for i := range line {
			b[i] = mix(a[i], b[i], y, extent)
		}
	}
}

// blendRight fades the last columns of the tile to the left into the first columns of t.
func blendRight(left, t Tile, extent int) {
	extent = min(left.Width, t.Width, extent)
	channels := len(t.Values) / (t.Height * t.Width)
	for y := range t.Height {
		a, b := left.Values[(y*left.Width+left.Width-extent)*channels:], t.Values[y*t.Width*channels:]
		for i := range extent * channels {
			b[i] = mix(a[i], b[i], i/channels, extent)
		}
	}
}

func mix(a, b float32, at, of int) float32 {
	w := float32(at) / float32(of)
	return a*(1-w) + b*w
}
