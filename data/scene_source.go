package data

import (
	"bytes"
	"fmt"
	"image/png"
	"strings"

	"fewstep/data/images"
	"fewstep/data/scenes"
	"fewstep/data/source"
)

// sceneSource is the samples of a spec of scenes as a source. Pictures are drawn when they are asked for.
type sceneSource struct {
	renderer *scenes.Renderer
	rows     []Row
	scenes   []scenes.Scene
}

// isScenes says whether a path names a spec of scenes.
func isScenes(path string) bool { return strings.HasSuffix(path, ".scenes.json") }

func openScenes(path string) (source.Source, error) {
	r, err := scenes.Open(path)
	if err != nil {
		return nil, err
	}
	s := &sceneSource{renderer: r}
	for _, split := range scenes.Splits {
		for i := range r.Spec().Samples[split] {
			scene := r.Scene(split, i)
			row := Row{Key: fmt.Sprintf("%s/%d", split, i), Split: split, Weight: 1}
			row.Caption, row.Kind, row.Coarse = scene.Captions()
			s.rows, s.scenes = append(s.rows, row), append(s.scenes, scene)
		}
	}
	return s, nil
}

func (s *sceneSource) Len() int      { return len(s.rows) }
func (s *sceneSource) Row(i int) Row { return s.rows[i] }
func (s *sceneSource) Close() error  { return nil }

// State stands for all pictures and captions: they follow from it.
func (s *sceneSource) State() string { return s.renderer.Digest() }

// Encoded returns picture i as PNG.
func (s *sceneSource) Encoded(i int) ([]byte, error) {
	var buf bytes.Buffer
	err := png.Encode(&buf, s.renderer.Draw(s.scenes[i], s.renderer.Spec().Side))
	return buf.Bytes(), err
}

func (s *sceneSource) draw(i int) images.RGB {
	return images.FromImage(s.renderer.Draw(s.scenes[i], s.renderer.Spec().Side))
}

// WithoutHalf returns image i with half of its objects left out, as Image gives it; only scenes have objects.
func (s *Set) WithoutHalf(i, size int) ([]float32, error) {
	d, ok := s.source.(*sceneSource)
	if !ok {
		return nil, fmt.Errorf("data: %s: %s is a picture, not a scene: no object can be left out", s.path, s.Row(i).Key)
	}
	picture := d.renderer.Draw(d.scenes[s.number(i)].Half(), d.renderer.Spec().Side)
	return scalePixels(square(images.FromImage(picture), size).Pix), nil
}
