package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fewstep/train/tinypipeline"
)

// A download that breaks off and is then refused ends a command with one error and nothing made; the half of it that is
// there is taken for no model, and the same command goes on from it.
func TestHalfDownloaded(t *testing.T) {
	dir := t.TempDir()
	model, single := filepath.Join(dir, "model"), filepath.Join(dir, "tiny.safetensors")
	if err := tinypipeline.Model(model, filepath.Join("..", "..", "model", "clip", "testdata")); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := runCommand(t, "convert", model, single); code != 0 {
		t.Fatalf("code %d, %s", code, errs)
	}
	content, err := os.ReadFile(single)
	if err != nil {
		t.Fatal(err)
	}
	const commit = "0123456789abcdef0123456789abcdef01234567"
	var gets atomic.Int32
	var resumed atomic.Value
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/api/models/owner/name/revision/main":
			fmt.Fprintf(w, `{"id":"owner/name","sha":%q,"siblings":[{"rfilename":"tiny.safetensors"}]}`, commit)
			return
		case r.URL.Path != "/owner/name/resolve/"+commit+"/tiny.safetensors":
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
		if r.Method == http.MethodGet {
			switch gets.Add(1) {
			case 1:
				w.Header().Set("Content-Length", fmt.Sprint(len(content)))
				_, _ = w.Write(content[:len(content)/2])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case 2:
				http.Error(w, "the link has expired", http.StatusForbidden)
				return
			}
			resumed.Store(r.Header.Get("Range"))
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(hub.Close)
	t.Setenv("HF_ENDPOINT", hub.URL)
	t.Setenv("HF_TOKEN", "")
	t.Setenv("HF_HUB_CACHE", filepath.Join(dir, "cache"))

	const name = "hf:owner/name/tiny.safetensors"
	out := filepath.Join(dir, "out")
	_, errs, code := runCommand(t, "convert", name, out)
	if code != exitFailure || !strings.Contains(errs, name) || !strings.Contains(errs, "403") || strings.Count(errs, "\n") > 2 {
		t.Errorf("code %d, %q", code, errs)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was made of half a file")
	}
	if _, errs, code := runCommand(t, "convert", name, out); code != 0 {
		t.Fatalf("code %d, %s", code, errs)
	}
	if got, want := resumed.Load(), fmt.Sprintf("bytes=%d-", len(content)/2); got != want {
		t.Errorf("the second download asked for %v, want %s", got, want)
	}
	direct := filepath.Join(dir, "direct")
	if _, errs, code := runCommand(t, "convert", single, direct); code != 0 {
		t.Fatalf("code %d, %s", code, errs)
	}
	sameFiles(t, files(t, direct, nil), files(t, out, nil))
}
