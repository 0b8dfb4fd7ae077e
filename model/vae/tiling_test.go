package vae

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"
)

// Cuts, blends and edges against diffusers' tiled_decode and tiled_encode; see testdata/make_tiles.py.
func TestTilesAgainstDiffusers(t *testing.T) {
	raw, err := os.ReadFile("testdata/tiles.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Tile, Height, Width int
		Decoded, Encoded    []float64
	}
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	const channels = 2
	c := &Config{BlockOutChannels: []int{4, 4}}
	for _, k := range cases {
		decode, err := c.DecodeTiles(k.Tile)
		if err != nil {
			t.Fatal(err)
		}
		encode, err := c.EncodeTiles(k.Tile)
		if err != nil {
			t.Fatal(err)
		}
		for what, run := range map[string]struct {
			tiling        Tiling
			height, width int
			wave          func(float64) float64
			rate          float64
			f             func(Tile) Tile
			want          []float64
		}{
			"decoded": {decode, k.Height, k.Width, math.Sin, 0.7, repeat, k.Decoded},
			"encoded": {encode, 2 * k.Height, 2 * k.Width, math.Cos, 0.3, average, k.Encoded},
		} {
			in := make([]float32, run.height*run.width*channels)
			for i := range in { // channels last of a wave that runs channels first
				in[i] = float32(run.wave(float64(float32(i%channels*run.height*run.width+i/channels) * float32(run.rate))))
			}
			got, err := run.tiling.Run([][]float32{in, in}, run.height, run.width, func(tiles []Tile) ([]Tile, error) {
				return []Tile{run.f(tiles[0]), run.f(tiles[1])}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			name := fmt.Sprintf("%s %d×%d by %d", what, k.Height, k.Width, k.Tile)
			for _, values := range got {
				if len(values) != len(run.want) {
					t.Fatalf("%s: %d values, want %d", name, len(values), len(run.want))
				}
				for i, w := range run.want {
					if d := math.Abs(float64(values[i]) - w); d > 2e-5 {
						t.Fatalf("%s: value %d is %g, want %g", name, i, values[i], w)
					}
				}
			}
		}
	}
}

// ends is the sum of a tile's first and last value in a channel.
func ends(t Tile, channel, channels int) float32 {
	return t.Values[channel] + t.Values[len(t.Values)-channels+channel]
}

func repeat(t Tile) Tile {
	channels := len(t.Values) / (t.Height * t.Width)
	out := Tile{Height: 2 * t.Height, Width: 2 * t.Width}
	for y := range out.Height {
		for x := range out.Width {
			for c := range channels {
				out.Values = append(out.Values, t.Values[(y/2*t.Width+x/2)*channels+c]+ends(t, c, channels))
			}
		}
	}
	return out
}

func average(t Tile) Tile {
	channels := len(t.Values) / (t.Height * t.Width)
	out := Tile{Height: t.Height / 2, Width: t.Width / 2}
	for y := range out.Height {
		for x := range out.Width {
			for c := range channels {
				at := func(dy, dx int) float32 { return t.Values[((2*y+dy)*t.Width+2*x+dx)*channels+c] }
				out.Values = append(out.Values, (at(0, 0)+at(0, 1)+at(1, 0)+at(1, 1))/4+ends(t, c, channels))
			}
		}
	}
	return out
}

func TestTileSides(t *testing.T) {
	c := &Config{BlockOutChannels: []int{4, 4, 4, 4}}
	for side, ok := range map[int]bool{32: true, 512: true, 0: false, -32: false, 16: false, 40: false} {
		if _, err := c.DecodeTiles(side); (err == nil) != ok {
			t.Errorf("%d: %v", side, err)
		}
	}
	tiles, _ := c.DecodeTiles(512)
	if tiles.Applies(64, 64) || !tiles.Applies(64, 65) || !tiles.Applies(72, 8) {
		t.Error("tiles are for what is larger than one")
	}
}
