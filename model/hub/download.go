package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// downloads fetches files of one commit into the cache: blobs/<etag>, and a link to it in snapshots/<commit>.
type downloads struct {
	repo, commit, endpoint, token string
	dir                           string // of the repository in the cache
	progress                      func(done, total int64)

	done, total int64
}

// blob is a file's content as the hub describes it.
type blob struct {
	file, etag string
	size       int64
}

func (d *downloads) snapshot() string { return filepath.Join(d.dir, "snapshots", d.commit) }

func (d *downloads) path(file string) string {
	return filepath.Join(d.snapshot(), filepath.FromSlash(file))
}

// missing are the files that the snapshot does not have.
func (d *downloads) missing(files []string) (missing []string) {
	for _, f := range files {
		if _, err := os.Stat(d.path(f)); err != nil {
			missing = append(missing, f)
		}
	}
	return missing
}

func (d *downloads) fetch(ctx context.Context, files []string) error {
	var blobs []blob
	for _, file := range d.missing(files) {
		if !filepath.IsLocal(file) {
			return fmt.Errorf("the file %q lies outside the repository", file)
		}
		b, err := d.describe(ctx, file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		blobs = append(blobs, b)
		d.total += b.size
	}
	for _, b := range blobs {
		if err := d.get(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", b.file, err)
		}
	}
	return nil
}

func (d *downloads) url(file string) string {
	parts := strings.Split(file, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return d.endpoint + "/" + d.repo + "/resolve/" + d.commit + "/" + strings.Join(parts, "/")
}

func (d *downloads) request(ctx context.Context, method, address string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	if d.token != "" {
		req.Header.Set("Authorization", "Bearer "+d.token) // the client drops it where another host is asked
	}
	req.Header.Set("Accept-Encoding", "identity")
	return req, nil
}

// describe asks for a file's size and hash. The hub answers for large files with a redirect to where they are stored,
// and the two stand in that answer; a redirect without them leads to a repository that was renamed.
func (d *downloads) describe(ctx context.Context, file string) (blob, error) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	address := d.url(file)
	for range 5 {
		req, err := d.request(ctx, http.MethodHead, address)
		if err != nil {
			return blob{}, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return blob{}, err
		}
		resp.Body.Close()
		if resp.StatusCode >= 400 {
			return blob{}, fmt.Errorf("the hub answers %s", resp.Status)
		}
		b := blob{file: file, etag: resp.Header.Get("X-Linked-Etag"), size: resp.ContentLength}
		if b.etag == "" && resp.StatusCode < 300 {
			b.etag = resp.Header.Get("ETag")
		}
		if size := resp.Header.Get("X-Linked-Size"); size != "" {
			if b.size, err = strconv.ParseInt(size, 10, 64); err != nil {
				return blob{}, fmt.Errorf("the hub names the size %q", size)
			}
		}
		b.etag = strings.Trim(strings.TrimPrefix(b.etag, "W/"), `"`)
		if b.etag != "" {
			if b.etag != path.Base(b.etag) || !filepath.IsLocal(b.etag) || b.size < 0 {
				return blob{}, fmt.Errorf("the hub describes it by the tag %q and the size %d, which cannot be", b.etag, b.size)
			}
			return b, nil
		}
		next, err := resp.Location()
		if err != nil || next.Host != req.URL.Host {
			break
		}
		address = next.String()
	}
	return blob{}, errors.New("the hub does not say its hash")
}

// attempts is how often a download is taken up again without any progress.
const attempts = 5

// get brings one blob into the cache and links it into the snapshot.
func (d *downloads) get(ctx context.Context, b blob) error {
	target := filepath.Join(d.dir, "blobs", b.etag)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	lock := flock.New(target + ".lock")
	if _, err := lock.TryLockContext(ctx, time.Second); err != nil {
		return fmt.Errorf("another program is fetching it: %w", err)
	}
	defer func() {
		os.Remove(target + ".lock")
		lock.Unlock()
	}()
	if info, err := os.Stat(target); err != nil || info.Size() != b.size {
		if err := d.complete(ctx, b, target+".incomplete"); err != nil {
			return err
		}
		if err := os.Rename(target+".incomplete", target); err != nil {
			return err
		}
	} else {
		d.tell(b.size)
	}
	link := d.path(b.file)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return err
	}
	relative, err := filepath.Rel(filepath.Dir(link), target)
	if err != nil {
		return err
	}
	if err := os.Symlink(relative, link); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// complete downloads to partial, from where it ends, until it is whole.
func (d *downloads) complete(ctx context.Context, b blob, partial string) error {
	before := d.done
	for failures := 0; ; {
		have := size(partial)
		d.done = before
		d.tell(have)
		if have == b.size {
			break
		}
		err := d.part(ctx, b, partial, have)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case size(partial) > have:
			failures = 0
		default:
			if err == nil {
				err = errors.New("the hub sends nothing")
			}
			var status statusError
			if failures++; failures >= attempts || errors.As(err, &status) && status < 500 && status != http.StatusTooManyRequests {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(failures) * retryPause):
			}
		}
	}
	if err := verify(partial, b.etag); err != nil {
		os.Remove(partial)
		return err
	}
	return nil
}

// retryPause is waited after the first failure, twice that after the second, and so on.
var retryPause = time.Second

type statusError int

func (s statusError) Error() string {
	return fmt.Sprintf("the hub answers %d %s", int(s), http.StatusText(int(s)))
}

// part appends to partial what comes from offset have on.
func (d *downloads) part(ctx context.Context, b blob, partial string, have int64) error {
	if have > b.size {
		return os.Remove(partial)
	}
	req, err := d.request(ctx, http.MethodGet, d.url(b.file))
	if err != nil {
		return err
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if begin := fmt.Sprintf("bytes %d-", have); !strings.HasPrefix(resp.Header.Get("Content-Range"), begin) {
			return fmt.Errorf("asked for what follows byte %d, the hub sends %q", have, resp.Header.Get("Content-Range"))
		}
	case http.StatusOK: // from the beginning
		flags |= os.O_TRUNC
		d.done -= have
	default:
		return statusError(resp.StatusCode)
	}
	f, err := os.OpenFile(partial, flags, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.TeeReader(io.LimitReader(resp.Body, b.size), teller{d}))
	return errors.Join(err, f.Close())
}

type teller struct{ d *downloads }

func (t teller) Write(p []byte) (int, error) {
	t.d.tell(int64(len(p)))
	return len(p), nil
}

func (d *downloads) tell(n int64) {
	d.done += n
	if d.progress != nil {
		d.progress(d.done, d.total)
	}
}

func size(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// verify compares a file with the SHA-256 that is the tag of large files. Small ones have git's hash instead, and only
// their size is known.
func verify(file, etag string) error {
	if len(etag) != 2*sha256.Size {
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != etag {
		return fmt.Errorf("what was downloaded has the SHA-256 %s, and the hub says %s: it was removed, try again", got, etag)
	}
	return nil
}
