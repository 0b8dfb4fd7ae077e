package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/encoded"
	"fewstep/data/images"
	"fewstep/model/pipeline"
	"fewstep/model/weights"
)

// vaeComponents are those whose weights encodings of images depend on; encodings of text depend on the pipeline's Kind.Text.
var vaeComponents = []string{"vae"}

// weightsHash stands for the weights of a pipeline's components: of a single file, for all of it.
func weightsHash(ctx context.Context, p *pipeline.Pipeline, components ...string) (string, error) {
	info, err := os.Stat(p.Dir)
	if err != nil {
		return "", err
	}
	files := []string{p.Dir}
	if info.IsDir() {
		files = nil
		for _, c := range components {
			found, err := weights.ModelFiles(filepath.Join(p.Dir, c))
			if err != nil {
				return "", err
			}
			slices.Sort(found)
			files = append(files, found...)
		}
	}
	h := sha256.New()
	for _, f := range files {
		sum, err := weights.HashFile(ctx, f)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, sum)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// asRecords keeps an interface nil where there is nothing.
func asRecords(x *fileRecords, err error) (records, error) {
	if err != nil {
		return nil, err
	}
	return x, nil
}

// preparedLatents and preparedTexts read what 'fewstep data encode' made.
type preparedLatents struct {
	store *encoded.Store
	set   *data.Set
}

func (p preparedLatents) read(i int, parts ...[]float32) error {
	mean, deviation, _, err := p.store.Latent(p.set.Chosen(i))
	if err != nil {
		return err
	}
	return fill(append(mean, deviation...), parts)
}

func (p preparedLatents) close() error { return p.store.Close() }

// fill puts a record into parts that take it up together.
func fill(record []float32, parts [][]float32) error {
	for _, part := range parts {
		if len(record) < len(part) {
			return errors.New("an encoding has fewer values than the UNet takes")
		}
		record = record[copy(part, record):]
	}
	return nil
}

type preparedTexts struct {
	store    *encoded.Store
	captions []string
}

func (p preparedTexts) read(i int, parts ...[]float32) error {
	text, pooled, err := p.store.Embedding(p.captions[i])
	if err != nil {
		return err
	}
	return fill(slices.Concat(text, pooled), parts)
}
func (p preparedTexts) close() error { return nil } // the latents' store is the same

// prepared takes the encodings that belong to the data set, where there are any and they are of this recipe's encoders.
func (s *loader) prepared(ctx context.Context) error {
	dir := s.Data.EncodedFolder()
	if dir == "" {
		return nil
	}
	store, err := encoded.Open(dir)
	if err != nil {
		return err
	}
	vae, err := weightsHash(ctx, s.Pipeline, vaeComponents...)
	if err != nil {
		return err
	}
	again := "; run 'fewstep data encode' for this recipe"
	if !slices.Equal(store.Shapes, s.shapes) {
		return fmt.Errorf("%s: encoded in the shapes %v, the recipe's data.resolution and data.buckets say %v%s", dir, some(store.Shapes), some(s.shapes), again)
	}
	switch {
	case s.deviates() && !store.Deviations:
		return fmt.Errorf("%s: encoded without the posterior's deviations, which data.posterior: sample draws from%s", dir, again)
	case store.VAE != vae:
		return fmt.Errorf("%s: encoded with another VAE than %s has%s", dir, s.Pipeline.Dir, again)
	case store.Decoder != images.DecoderVersion:
		return fmt.Errorf("%s: encoded by an earlier version, which decoded some images otherwise%s", dir, again)
	}
	s.latents = preparedLatents{store, s.set}
	if len(store.Texts) == 0 {
		return nil
	}
	text, err := weightsHash(ctx, s.Pipeline, s.Pipeline.Kind.Text...)
	if err != nil {
		return err
	}
	if store.Text != text {
		return fmt.Errorf("%s: encoded with other text encoders than %s has; run 'fewstep data encode' for this recipe", dir, s.Pipeline.Dir)
	}
	captions := s.set.Captions()
	s.caption = map[string]int{}
	for i, text := range captions {
		s.caption[text] = i
	}
	s.embeddings = preparedTexts{store, captions}
	return nil
}

// some writes the first few shapes.
func some(shapes []bucket.Size) string {
	const most = 3
	if len(shapes) > most {
		return fmt.Sprintf("%v and %d more", shapes[:most], len(shapes)-most)
	}
	return fmt.Sprint(shapes)
}
