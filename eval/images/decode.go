package images

import (
	"bytes"
	"fmt"
	"image"
	_ "image/jpeg" // register the decoders that image.Decode chooses from
	_ "image/png"
	"os"

	_ "golang.org/x/image/webp"
)

// maxPixels bounds a decoded image; a file may claim any size.
const maxPixels = 1 << 28

// Decode reads a PNG, JPEG or WebP file. A panic in a decoder is an error here.
func Decode(file []byte) (m RGB, err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = RGB{}, fmt.Errorf("broken image: %v", p)
		}
	}()
	config, _, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return RGB{}, fmt.Errorf("not a PNG, JPEG or WebP image: %w", err)
	}
	if config.Width <= 0 || config.Height <= 0 || config.Width > maxPixels/config.Height {
		return RGB{}, fmt.Errorf("an image of %d×%d pixels cannot be read", config.Width, config.Height)
	}
	img, _, err := image.Decode(bytes.NewReader(file))
	if err != nil {
		return RGB{}, fmt.Errorf("broken image: %w", err)
	}
	return FromImage(img), nil
}

// Open reads an image file. Errors name it.
func Open(path string) (RGB, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return RGB{}, err
	}
	m, err := Decode(file)
	if err != nil {
		return RGB{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
