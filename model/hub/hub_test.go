package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// fake is a hub with one repository: small files come from it, large ones from a store on another host.
type fake struct {
	mu       sync.Mutex
	files    map[string][]byte
	large    map[string]bool
	token    string // wanted
	breakAt  int    // the store cuts each connection after so many bytes; 0 = never
	spoil    bool   // the store sends other bytes
	requests []string
	ranges   []string
	hub      *httptest.Server
	store    *httptest.Server
}

func newFake(t *testing.T) *fake {
	t.Helper()
	retryPause = time.Millisecond
	f := &fake{files: map[string][]byte{}, large: map[string]bool{}, token: "secret"}
	f.store = httptest.NewServer(http.HandlerFunc(f.serveStore))
	f.hub = httptest.NewServer(http.HandlerFunc(f.serveHub))
	t.Cleanup(f.store.Close)
	t.Cleanup(f.hub.Close)
	t.Setenv("HF_ENDPOINT", f.hub.URL)
	t.Setenv("HF_TOKEN", f.token)
	t.Setenv("HF_HUB_CACHE", t.TempDir())
	return f
}

func (f *fake) serveHub(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if r.Header.Get("Authorization") != "Bearer "+f.token {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	if r.URL.Path == "/api/models/owner/name/revision/main" {
		var names []string
		for name := range f.files {
			names = append(names, fmt.Sprintf(`{"rfilename":%q}`, name))
		}
		fmt.Fprintf(w, `{"id":"owner/name","sha":%q,"siblings":[%s]}`, commit, strings.Join(names, ","))
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/owner/name/resolve/"+commit+"/")
	content, have := f.files[name]
	if !ok || !have {
		http.NotFound(w, r)
		return
	}
	if f.large[name] {
		w.Header().Set("X-Linked-Etag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(content)))
		http.Redirect(w, r, strings.Replace(f.store.URL, "127.0.0.1", "localhost", 1)+"/"+name+"?signature=x", http.StatusFound)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content))[:42]+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (f *fake) serveStore(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ranges = append(f.ranges, r.Header.Get("Range"))
	if r.Header.Get("Authorization") != "" {
		http.Error(w, "a token was sent to another host", http.StatusBadRequest)
		return
	}
	content := bytes.Clone(f.files[strings.TrimPrefix(r.URL.Path, "/")])
	if f.spoil {
		content[0] ^= 1
	}
	if f.breakAt > 0 {
		w = &cutting{w, f.breakAt}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// cutting breaks the connection after some bytes.
type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) >= c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func (f *fake) directory() {
	for _, name := range []string{"model_index.json", "unet/config.json", "vae/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json", "README.md", "safety_checker/config.json"} {
		f.files[name] = []byte("content of " + name)
	}
	for _, name := range []string{"unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors",
		"vae/diffusion_pytorch_model.bin", "sd_xl_base.safetensors"} {
		f.files[name] = bytes.Repeat([]byte(name), 3000)
		f.large[name] = true
	}
}

func TestFetchDirectory(t *testing.T) {
	f := newFake(t)
	f.directory()
	f.breakAt = 20_000
	var done, total int64
	dir, err := Fetch(context.Background(), "hf:owner/name", Options{Progress: func(d, n int64) { done, total = d, n }})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"model_index.json": true, "unet/config.json": true, "tokenizer/merges.txt": true, "scheduler/scheduler_config.json": true,
		"unet/diffusion_pytorch_model.fp16.safetensors": true, "vae/diffusion_pytorch_model.safetensors": true,
		"unet/diffusion_pytorch_model.safetensors": false, "vae/diffusion_pytorch_model.bin": false, "README.md": false, "sd_xl_base.safetensors": false,
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if want && !bytes.Equal(got, f.files[name]) || !want && err == nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	resumed := 0
	for _, r := range f.ranges {
		if strings.HasPrefix(r, "bytes=") {
			resumed++
		}
	}
	if resumed < 8 {
		t.Errorf("broken connections were taken up %d times: %q", resumed, f.ranges)
	}
	if done != total || total < 200_000 {
		t.Errorf("progress %d of %d", done, total)
	}
	// What is there is not asked for again, and is used when the hub is gone.
	before := len(f.requests)
	if again, err := Fetch(context.Background(), "hf:owner/name", Options{}); err != nil || again != dir {
		t.Errorf("%s, %v", again, err)
	}
	if n := len(f.requests) - before; n != 1 {
		t.Errorf("%d requests for what is in the cache", n)
	}
	f.hub.Close()
	warned := ""
	if again, err := Fetch(context.Background(), "hf:owner/name", Options{Warn: func(s string) { warned = s }}); err != nil || again != dir || !strings.Contains(warned, "cannot be reached") {
		t.Errorf("without the hub: %s, %v, %q", again, err, warned)
	}
	if _, err := Fetch(context.Background(), "hf:owner/name/sd_xl_base.safetensors", Options{}); err == nil {
		t.Error("fetched without the hub")
	}
}

// A program that was killed leaves a part, from which the next one goes on.
func TestResume(t *testing.T) {
	f := newFake(t)
	f.directory()
	const file = "sd_xl_base.safetensors"
	content := f.files[file]
	blobs := filepath.Join(os.Getenv("HF_HUB_CACHE"), "models--owner--name", "blobs")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	partial := filepath.Join(blobs, fmt.Sprintf("%x.incomplete", sha256.Sum256(content)))
	if err := os.WriteFile(partial, content[:1000], 0o644); err != nil {
		t.Fatal(err)
	}
	path, err := Fetch(context.Background(), "hf:owner/name@main/"+file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, content) || len(f.ranges) != 1 || f.ranges[0] != "bytes=1000-" {
		t.Errorf("%d bytes, ranges %q", len(got), f.ranges)
	}
	if _, err := os.Stat(partial); err == nil {
		t.Error("the part is still there")
	}
}

func TestRefusals(t *testing.T) {
	f := newFake(t)
	f.directory()
	const file = "hf:owner/name/sd_xl_base.safetensors"
	f.spoil = true
	if _, err := Fetch(context.Background(), file, Options{}); err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("other bytes: %v", err)
	}
	f.spoil = false
	t.Setenv("HF_TOKEN", "")
	if _, err := Fetch(context.Background(), file, Options{}); err == nil || !strings.Contains(err.Error(), "HF_TOKEN") {
		t.Errorf("without a token: %v", err)
	}
	t.Setenv("HF_TOKEN", f.token)
	if _, err := Fetch(context.Background(), "hf:owner/other", Options{}); err == nil || !strings.Contains(err.Error(), "no such model") {
		t.Errorf("unknown repository: %v", err)
	}
	if _, err := Fetch(context.Background(), "hf:owner/name/none.safetensors", Options{}); err == nil || !strings.Contains(err.Error(), "it has no file none.safetensors") {
		t.Errorf("unknown file: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Fetch(ctx, file, Options{}); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("cancelled: %v", err)
	}
	delete(f.files, "model_index.json")
	f.files["other.safetensors"] = []byte("x")
	if _, err := Fetch(context.Background(), "hf:owner/name", Options{}); err == nil || !strings.Contains(err.Error(), "several weight files") {
		t.Errorf("several files: %v", err)
	}
	for _, bad := range []string{"owner/name", "hf:owner", "hf:/name", "hf:owner/", "hf:../name", "hf:owner/..", "hf:owner/name/../../x", "hf:owner/name@", "hf:owner/na?me"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("hf:owner/name@main/unet/x.safetensors")
	f.Add("hf:../..")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parse(text)
		if err == nil && (!filepath.IsLocal(n.repo) || strings.Count(n.repo, "/") != 1 || n.file != "" && !filepath.IsLocal(n.file)) {
			t.Errorf("%q became %+v", text, n)
		}
	})
}
