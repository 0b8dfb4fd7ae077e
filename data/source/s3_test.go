package source

import (
	"context"
	"errors"
	"fmt"
	"image/color"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

const (
	accessKey = "AKIDEXAMPLEEXAMPLE"
	secretKey = "wJalrXUtnFEMIsecretKEY"
	token     = "sessionTOKENsessionTOKEN"
)

// storage is an S3 server on the loopback. refuse may answer a request itself; it says whether it did.
func storage(t testing.TB, refuse func(w http.ResponseWriter, r *http.Request) bool) (put func(name, content string)) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("set"); err != nil {
		t.Fatal(err)
	}
	inner := gofakes3.New(backend).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse != nil && refuse(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_S3": server.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_SESSION_TOKEN": token, "AWS_NO_SIGN_REQUEST": ""} {
		t.Setenv(name, value)
	}
	before := s3Pause
	s3Pause = time.Millisecond
	t.Cleanup(func() { s3Pause = before })
	return func(name, content string) {
		if _, err := backend.PutObject("set", name, map[string]string{"Last-Modified": "Fri, 02 Jan 2026 15:04:05 GMT"}, strings.NewReader(content), int64(len(content)), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func s3Error(w http.ResponseWriter, code string, status int) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	io.WriteString(w, `<?xml version="1.0"?><Error><Code>`+code+`</Code><Message>`+accessKey+` refused</Message></Error>`)
}

// All layouts are read from storage, though it answers 503 to the first of equal requests and cuts its answer to the second.
func TestStorage(t *testing.T) {
	var mu sync.Mutex
	requests, slow, cut := 0, 0, 0
	asked := map[string]int{}
	put := storage(t, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		requests++
		what := r.Method + r.URL.String() + r.Header.Get("Range")
		switch asked[what]++; asked[what] {
		case 1:
			slow++
			s3Error(w, "SlowDown", http.StatusServiceUnavailable)
			return true
		case 2:
			if r.Method == http.MethodGet && !strings.Contains(r.URL.RawQuery, "list-type") {
				cut++
				w.Header().Set("Content-Length", "1000")
				w.Header().Set("Last-Modified", "Fri, 02 Jan 2026 15:04:05 GMT")
				w.WriteHeader(http.StatusPartialContent)
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}
		return false
	})
	p, opt := picture(t, color.White), Options{Index: t.TempDir()}
	put("laion/00000.tar", tarOf(t, "a.png", p, "a.txt", "cat", "b.png", p, "b.json", `{"caption":"dog"}`))
	put("laion/00001.tar", tarOf(t, "a.png", p, "a.txt", "owl"))
	put("laion/00001_stats.json", "{}")
	put("loose/x.png", p)
	put("loose/x.txt", "elk")
	put("loose/deep/", "")
	put("loose/deep/y.png", p)
	put("loose/deep/y.caption", "ant")
	put("hf/train-00000.parquet", formFile(t, "codec_zstd.parquet"))
	for address, want := range map[string][]string{
		"s3://set/laion":                    {"00000/a=cat", "00000/b=dog", "00001/a=owl"},
		"s3://set/laion/{00000..00001}.tar": {"00000/a=cat", "00000/b=dog", "00001/a=owl"},
		"s3://set/laion/*1.tar":             {"a=owl"},
		"s3://set/laion/00000.tar":          {"a=cat", "b=dog"},
		"s3://set/loose/":                   {"deep/y=ant", "x=elk"},
		"s3://set/hf":                       {"train-00000/row0=a", "train-00000/row1=b", "train-00000/row2=c", "train-00000/row3=d"},
	} {
		f := open(t, address, opt)
		if got := rows(t, f); !slices.Equal(got, want) {
			t.Fatalf("%s: %q, want %q; %v, %v", address, got, want, f.Flaws(), f.Skipped())
		}
		if !f.Remote() || !strings.HasPrefix(f.Shard(0), "s3://set/") {
			t.Error(f.Shard(0))
		}
	}
	if slow < 20 || cut < 10 {
		t.Errorf("%d requests were refused and %d cut: the test has no force", slow, cut)
	}
	before := requests
	open(t, "s3://set/laion/00000.tar", opt)
	if requests-before > 8 {
		t.Errorf("an indexed shard costs %d requests", requests-before)
	}
	if _, err := Open(context.Background(), "s3://set/none", opt); err == nil || !strings.Contains(err.Error(), "s3://set/none") {
		t.Error(err)
	}
}

// Many shards are asked for at a time, once each and once for what lies beside a tar, and opened from their indexes without
// a look into them. Storage that may not be listed denies what is not there; what it does not answer is an error.
func TestManyShards(t *testing.T) {
	const n = 60
	var mu sync.Mutex
	requests, at, most, broken := 0, 0, 0, false
	put := storage(t, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		requests++
		at++
		most = max(most, at)
		down := broken && strings.HasSuffix(r.URL.Path, "tar/00030.parquet")
		mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		mu.Lock()
		at--
		mu.Unlock()
		switch {
		case down:
			w.WriteHeader(http.StatusInternalServerError)
		case r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "tar/00007.parquet"):
			w.WriteHeader(http.StatusForbidden)
		default:
			return false
		}
		return true
	})
	p, opt := picture(t, color.White), Options{Index: t.TempDir()}
	for i := range n {
		put(fmt.Sprintf("tar/%05d.tar", i), tarOf(t, "a.png", p, "a.txt", "cat"))
		put(fmt.Sprintf("table/%05d.parquet", i), formFile(t, "codec_zstd.parquet"))
	}
	for address, c := range map[string]struct{ rows, each int }{"s3://set/tar/{00000..00059}.tar": {n, 2}, "s3://set/table/{00000..00059}.parquet": {4 * n, 1}} {
		first := open(t, address, opt)
		requests, most = 0, 0
		again := open(t, address, opt)
		if again.Len() != c.rows || again.Fingerprint() != first.Fingerprint() {
			t.Fatal(again.Len(), c.rows, again.Fingerprint(), first.Fingerprint())
		}
		if requests != c.each*n || most < 8 {
			t.Errorf("%s: %d requests for %d indexed shards, %d at a time", address, requests, n, most)
		}
	}
	broken = true
	if _, err := Open(context.Background(), "s3://set/tar/{00000..00059}.tar", opt); err == nil || !strings.Contains(err.Error(), "tar/00030.parquet") {
		t.Error(err)
	}
	if _, err := Open(context.Background(), "s3://set/tar/{00050..00070}.tar", opt); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// What waiting cannot change is said at once, by name, and no secret is in any error.
func TestStorageRefuses(t *testing.T) {
	for _, c := range []struct {
		code   string
		status int
		want   string
		most   int
	}{
		{"ExpiredToken", 400, "the credentials have expired (ExpiredToken)", 3},
		{"InvalidAccessKeyId", 403, "the credentials are not accepted (InvalidAccessKeyId)", 3},
		{"SignatureDoesNotMatch", 403, "the credentials are not accepted", 3},
		{"AccessDenied", 403, "access is denied", 3},
		{"RequestTimeTooSkewed", 403, "clock", 3},
		{"SlowDown", 503, "SlowDown (HTTP 503) (asked 8 times)", 20},
	} {
		t.Run(c.code, func(t *testing.T) {
			var mu sync.Mutex
			requests := 0
			storage(t, func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				requests++
				s3Error(w, c.code, c.status)
				return true
			})
			_, err := Open(context.Background(), "s3://set/laion/", Options{Index: t.TempDir()})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			for _, secret := range []string{accessKey, secretKey, token} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("a secret is in the error: %v", err)
				}
			}
			if requests > c.most {
				t.Errorf("%d requests", requests)
			}
		})
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://"+accessKey+":"+secretKey+"@127.0.0.1:1")
	t.Setenv("AWS_REGION", "us-east-1")
	before := s3Pause
	s3Pause = time.Millisecond
	defer func() { s3Pause = before }()
	if _, err := Open(context.Background(), "s3://set/x", Options{}); err == nil || strings.Contains(err.Error(), secretKey) {
		t.Errorf("%v", err)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "storage.example.com")
	if _, err := Open(context.Background(), "s3://set/x", Options{}); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL") {
		t.Errorf("%v", err)
	}
}
