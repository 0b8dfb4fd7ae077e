package data

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fewstep/data/filter"
	"fewstep/data/scaletest"
	"fewstep/data/source"
)

// TestScaleServes is the storage of TestScale, in a process of its own.
func TestScaleServes(t *testing.T) { scaletest.Child(t) }

// TestScale opens, filters and reads many samples in tars of an S3 server on the loopback, and tells times and memory; of a
// million with
// FEWSTEP_SCALE=1000000 go test ./data -run TestScale$ -v -timeout 1h
func TestScale(t *testing.T) {
	rows := scaletest.Rows(20_000)
	perShard := min(10_000, rows/2)
	dir := t.TempDir()
	began := time.Now()
	lap := func(what string, args ...any) {
		now, most := scaletest.Resident(t)
		t.Logf("%-60s %8.1f s, heap and stacks %d MiB, at most %d MiB with mapped files", fmt.Sprintf(what, args...), time.Since(began).Seconds(), now, most)
		began = time.Now()
	}
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o777); err != nil {
		t.Fatal(err)
	}
	there, err := scaletest.Write(filepath.Join(dir, "bucket"), rows, perShard)
	if err != nil {
		t.Fatal(err)
	}
	lap("%d samples written in %d tars", rows, rows/perShard)
	scaletest.Start(t, "TestScaleServes", filepath.Join(dir, "bucket"))
	address := scaletest.Address(rows / perShard)
	opt := source.Options{Index: filepath.Join(dir, "index")}
	began = time.Now()
	f, err := source.Open(context.Background(), address, opt)
	if err != nil {
		t.Fatal(err)
	}
	lap("opened, %d rows indexed over S3", f.Len())
	if f.Len() != there {
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
	for _, text := range []string{scaletest.Kept} {
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
	set, err := New(t.Context(), address, f, Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	order, err := set.Order(OrderOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	drawn := int64(min(20_000, there/4))
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
	if now, _ := scaletest.Resident(t); now > 400 {
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
