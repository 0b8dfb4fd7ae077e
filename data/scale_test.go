package data

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/xml"
	"fmt"
	"image/color"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fewstep/data/filter"
	"fewstep/data/source"

	"github.com/parquet-go/parquet-go"
)

// Variables of the scale test: FEWSTEP_SCALE = number of samples; the other one is set for the process that serves them.
const (
	scaleRows   = "FEWSTEP_SCALE"
	scaleServes = "FEWSTEP_SCALE_SERVES"
)

type scaleRow struct {
	Key       string  `parquet:"key"`
	Caption   string  `parquet:"caption"`
	Status    string  `parquet:"status"`
	Aesthetic float64 `parquet:"AESTHETIC_SCORE"`
	Unsafe    float64 `parquet:"punsafe"`
	License   string  `parquet:"license"`
}

const scaleShard = 10_000 // samples of a shard, as img2dataset writes

// makeScale writes shards as img2dataset does.
func makeScale(t *testing.T, dir string, rows int) {
	t.Helper()
	images := make([][]byte, 16)
	for i := range images {
		images[i] = testPNG(t, 16+i, 24, plain(color.NRGBA{uint8(16 * i), 100, 50, 255}))
	}
	for shard := range rows / scaleShard {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%05d.tar", shard)))
		if err != nil {
			t.Fatal(err)
		}
		buffer := bufio.NewWriterSize(f, 1<<20)
		w := tar.NewWriter(buffer)
		var table []scaleRow
		for i := range scaleShard {
			key, caption := fmt.Sprintf("%05d%04d", shard, i), fmt.Sprintf("picture %d of shard %d", i, shard)
			status := "success"
			if i%10 == 9 {
				status = "failed_to_download"
			}
			table = append(table, scaleRow{key, caption, status, float64(i%100) / 10, float64(i%7) / 10, "CC0-1.0"})
			if status != "success" {
				continue
			}
			for name, content := range map[string][]byte{".png": images[i%16], ".txt": []byte(caption)} {
				if err := w.WriteHeader(&tar.Header{Name: key + name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(content); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, err := range []error{w.Close(), buffer.Flush(), f.Close(), parquet.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.parquet", shard)), table)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestScaleServes is the storage of TestScale, in a process of its own: it serves a folder as the bucket "scale" until its
// standard input ends, and writes its address first.
func TestScaleServes(t *testing.T) {
	dir := os.Getenv(scaleServes)
	if dir == "" {
		t.Skip("a part of TestScale")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("serves %s\n", listener.Addr())
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/scale"), "/")
		if name == "" {
			type content struct {
				Key, LastModified, ETag string
				Size                    int64
			}
			var list struct {
				XMLName  xml.Name  `xml:"ListBucketResult"`
				Contents []content `xml:"Contents"`
			}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				if info, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), r.URL.Query().Get("prefix")) {
					list.Contents = append(list.Contents, content{e.Name(), info.ModTime().UTC().Format("2006-01-02T15:04:05.000Z"), e.Name(), info.Size()})
				}
			}
			w.Header().Set("Content-Type", "application/xml")
			xml.NewEncoder(w).Encode(list)
			return
		}
		f, err := os.Open(filepath.Join(dir, filepath.Base(name)))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		defer f.Close()
		info, _ := f.Stat()
		w.Header().Set("ETag", `"`+filepath.Base(name)+`"`)
		http.ServeContent(w, r, "", info.ModTime(), f)
	}))
	bufio.NewReader(os.Stdin).ReadByte()
}

// resident is the process's memory now and at most, in MiB.
func resident(t *testing.T) (now, most int) {
	t.Helper()
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmHWM:" {
			most, _ = strconv.Atoi(f[1])
		} else if len(f) > 1 && f[0] == "RssAnon:" {
			now, _ = strconv.Atoi(f[1])
		}
	}
	return now >> 10, most >> 10
}

// TestScale opens, filters and reads many samples in tars of an S3 server on the loopback, and tells times and memory:
// FEWSTEP_SCALE=1000000 go test ./data -run TestScale$ -v -timeout 1h
func TestScale(t *testing.T) {
	rows, _ := strconv.Atoi(os.Getenv(scaleRows))
	if rows == 0 {
		t.Skipf("%s is not set", scaleRows)
	}
	dir := t.TempDir()
	began := time.Now()
	lap := func(what string, args ...any) {
		now, most := resident(t)
		t.Logf("%-60s %8.1f s, heap and stacks %d MiB, at most %d MiB with mapped files", fmt.Sprintf(what, args...), time.Since(began).Seconds(), now, most)
		began = time.Now()
	}
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o777); err != nil {
		t.Fatal(err)
	}
	makeScale(t, filepath.Join(dir, "bucket"), rows)
	lap("%d samples written in %d tars", rows, rows/scaleShard)
	server := exec.Command(os.Args[0], "-test.run", "TestScaleServes$")
	server.Env = append(os.Environ(), scaleServes+"="+filepath.Join(dir, "bucket"))
	stop, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stop.Close(); server.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://"+strings.TrimSpace(strings.TrimPrefix(line, "serves ")))
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_NO_SIGN_REQUEST", "true")
	address := fmt.Sprintf("s3://scale/{00000..%05d}.tar", rows/scaleShard-1)
	opt := source.Options{Index: filepath.Join(dir, "index")}
	began = time.Now()
	f, err := source.Open(context.Background(), address, opt)
	if err != nil {
		t.Fatal(err)
	}
	lap("opened, %d rows indexed over S3", f.Len())
	if f.Len() != rows/10*9 {
		t.Fatal(f.Len())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if f, err = source.Open(context.Background(), address, opt); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lap("opened again from its indexes (%d MiB)", folderSize(t, opt.Index)>>20)
	var filters []*filter.Filter
	for _, text := range []string{"AESTHETIC_SCORE >= 5.5 and punsafe < 0.1"} {
		x, err := filter.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		filters = append(filters, x)
	}
	kept := 0
	outcome, err := filter.Run(context.Background(), f, filters, filter.Settings{}, func(source.Selected) error { kept++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	lap("filtered by columns: %d kept, %d removed", kept, outcome[0].Removed)
	set, err := New(address, f, Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	order, err := set.Order(OrderOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	const drawn = 20_000
	var wait sync.WaitGroup
	for w := range int64(32) {
		wait.Go(func() {
			for k := w; k < drawn; k += 32 {
				row := order.Row(k)
				pixels, err := set.Image(row, 16)
				if want := fmt.Sprintf("picture %d of", mustAtoi(set.Row(row).Key[len(set.Row(row).Key)-4:])); err != nil || len(pixels) != 16*16*3 || !strings.HasPrefix(order.Caption(k), want) {
					t.Errorf("sample %d: %v, %q", k, err, order.Caption(k))
					return
				}
			}
		})
	}
	wait.Wait()
	lap("%d samples in the order of training read over S3 and decoded", drawn)
	if now, _ := resident(t); now > 400 {
		t.Errorf("%d MiB are held", now)
	}
}

func mustAtoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func folderSize(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if info, infoErr := e.Info(); err == nil && infoErr == nil && !e.IsDir() {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
