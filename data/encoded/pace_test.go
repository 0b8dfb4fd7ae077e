package encoded

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"fewstep/data"
	"fewstep/data/bucket"
	"fewstep/data/scaletest"
)

// A device that takes 2 ms an image does not wait for a storage that answers after 50 ms: as many images are asked for
// ahead as that takes, across batches and shards, and not more than is said.
func TestPaceOfSlowStorage(t *testing.T) {
	const each, latency = 2 * time.Millisecond, 50 * time.Millisecond
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	n, err := scaletest.Write(dir, 2*PerShard, 2*PerShard)
	if err != nil {
		t.Fatal(err)
	}
	var at, most atomic.Int64
	var slow atomic.Bool
	storage := scaletest.Handler(dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if most.Store(max(most.Load(), at.Add(1))); slow.Load() {
			time.Sleep(latency)
		}
		storage.ServeHTTP(w, r)
		at.Add(-1)
	}))
	defer server.Close()
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_S3": server.URL, "AWS_REGION": "us-east-1", "AWS_NO_SIGN_REQUEST": "true"} {
		t.Setenv(name, value)
	}
	set, err := data.Open(t.Context(), "s3://scale/00000.tar", data.Options{Unchecked: true})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	slow.Store(true)
	s := settings(t.TempDir(), "s3://scale/00000.tar")
	s.Batch, s.Shapes = 16, []bucket.Size{{Width: 8, Height: 8}}
	images := s.Images
	s.Images = func(of [][]float32, shape bucket.Size) (mean, deviations [][]float32, err error) {
		time.Sleep(each * time.Duration(len(of)))
		return images(of, shape)
	}
	r, err := Run(context.Background(), set, s)
	if err != nil || r.Images != n {
		t.Fatalf("%+v, %v", r, err)
	}
	told := fmt.Sprintf("%.0f images/s of %.0f; it waited for %v of %v; %d requests at a time", r.Speed(), 1/each.Seconds(), r.Waiting, r.Took, most.Load())
	t.Log(told)
	// Of a machine that is busy with other work, the timers of the device are late, too.
	if share := r.Encoding.Seconds() / r.Took.Seconds(); share < 0.8 || most.Load() > int64(set.Readers()) {
		t.Errorf("the device was at work for %.0f %% of the time: %s", 100*share, told)
	}
}
