// Package scaletest makes and serves the data set of the scale tests: small samples in tars with parquet files beside them, as
// img2dataset leaves them, in an S3-compatible storage on the loopback.
package scaletest

import (
	"archive/tar"
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// Row is a row of a shard's parquet file.
type Row struct {
	Key       string  `parquet:"key"`
	Caption   string  `parquet:"caption"`
	Status    string  `parquet:"status"`
	Aesthetic float64 `parquet:"AESTHETIC_SCORE"`
	Unsafe    float64 `parquet:"punsafe"`
	License   string  `parquet:"license"`
}

// Kept is a filter that keeps some 4.5 % of the rows.
const Kept = "AESTHETIC_SCORE >= 5.5 and punsafe < 0.1"

// Write makes rows samples in shards of perShard, of which nine of ten were downloaded. It returns how many these are.
func Write(dir string, rows, perShard int) (int, error) {
	pictures := make([][]byte, 16)
	for i := range pictures {
		m := image.NewNRGBA(image.Rect(0, 0, 16+i, 24))
		for y := range 24 {
			for x := range 16 + i {
				m.SetNRGBA(x, y, color.NRGBA{uint8(16 * i), 100, 50, 255})
			}
		}
		var b strings.Builder
		if err := png.Encode(&b, m); err != nil {
			return 0, err
		}
		pictures[i] = []byte(b.String())
	}
	there := 0
	for shard := range rows / perShard {
		var table []Row
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%05d.tar", shard)))
		if err != nil {
			return 0, err
		}
		buffer := bufio.NewWriterSize(f, 1<<20)
		w := tar.NewWriter(buffer)
		for i := range perShard {
			key, caption, status := fmt.Sprintf("%05d%04d", shard, i), fmt.Sprintf("picture %d of shard %d", i, shard), "success"
			if i%10 == 9 {
				status = "failed_to_download"
			}
			table = append(table, Row{key, caption, status, float64(i%100) / 10, float64(i%7) / 10, "CC0-1.0"})
			if status != "success" {
				continue
			}
			there++
			for _, member := range []struct {
				name    string
				content []byte
			}{{".png", pictures[i%16]}, {".txt", []byte(caption)}} {
				err := w.WriteHeader(&tar.Header{Name: key + member.name, Mode: 0o644, Size: int64(len(member.content)), Typeflag: tar.TypeReg})
				if err == nil {
					_, err = w.Write(member.content)
				}
				if err != nil {
					return 0, err
				}
			}
		}
		err = errors.Join(w.Close(), buffer.Flush(), f.Close(), parquet.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.parquet", shard)), table))
		if err != nil {
			return 0, err
		}
	}
	return there, nil
}

// Address is the pattern of so many shards.
func Address(shards int) string { return fmt.Sprintf("s3://scale/{00000..%05d}.tar", shards-1) }

// Serve serves a folder as the bucket "scale" until stop ends, and writes its address to out first: it is for a process of
// its own, whose memory is not that of what is tested.
func Serve(dir string, out io.Writer, stop io.Reader) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "serves %s\n", listener.Addr()); err != nil {
		return err
	}
	go http.Serve(listener, Handler(dir))
	bufio.NewReader(stop).ReadByte()
	return nil
}

// Handler answers as an S3-compatible storage does whose bucket "scale" holds a folder's files.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/scale"), "/")
		if name == "" {
			list(w, dir, r.URL.Query().Get("prefix"))
			return
		}
		f, err := os.Open(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("ETag", `"`+filepath.Base(name)+`"`)
		http.ServeContent(w, r, "", info.ModTime(), f)
	})
}

// list answers a request for the objects of the bucket.
func list(w http.ResponseWriter, dir, prefix string) {
	type content struct {
		Key, LastModified, ETag string
		Size                    int64
	}
	var answer struct {
		XMLName  xml.Name  `xml:"ListBucketResult"`
		Contents []content `xml:"Contents"`
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), prefix) {
			answer.Contents = append(answer.Contents, content{e.Name(), info.ModTime().UTC().Format("2006-01-02T15:04:05.000Z"), e.Name(), info.Size()})
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(answer)
}
