package weights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// HashFile is the hex SHA-256 of the whole file, as sha256sum prints it. It ends early with its context.
func HashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot hash: %w", err)
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, reading{ctx, f}); err != nil {
		return "", fmt.Errorf("cannot hash: %w", err)
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}

// reading is a file that reads until a context ends.
type reading struct {
	ctx context.Context
	*os.File
}

func (r reading) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.File.Read(b)
}

// WriteTo would have the file read in one piece.
func (r reading) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, struct{ io.Reader }{r}) }
