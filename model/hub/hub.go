// Package hub fetches models from the Hugging Face hub into the cache that huggingface_hub, go-huggingface and this
// package share, so that what one has fetched the others find.
//
// go-huggingface lists a repository and knows its commit. It does not fetch the files: its downloads (v0.3.1) begin
// anew each time, take a connection that breaks for the end of the file, and refuse redirects, which the hub answers
// for every large file. Downloads here resume, are repeated when the connection breaks, and are checked against size
// and SHA-256 before they appear in the cache.
//
// Environment: HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE, HF_HOME and XDG_CACHE_HOME, as huggingface_hub has them.
package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gomlx/go-huggingface/hub"
)

// Prefix begins the names that Fetch takes.
const Prefix = "hf:"

// Options of Fetch.
type Options struct {
	Progress func(done, total int64) // bytes; may be nil
	Warn     func(text string)       // may be nil
}

// name is a parsed "hf:owner/name[@revision][/file]".
type name struct{ repo, revision, file string }

func parse(text string) (name, error) {
	rest, ok := strings.CutPrefix(text, Prefix)
	f := strings.SplitN(rest, "/", 3)
	if !ok || len(f) < 2 || f[0] == "" || f[1] == "" {
		return name{}, fmt.Errorf("%q is not hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/FILE", text)
	}
	n := name{revision: "main"}
	short, revision, named := strings.Cut(f[1], "@")
	if named {
		n.revision = revision
	}
	n.repo = f[0] + "/" + short
	if len(f) == 3 {
		n.file = f[2]
	}
	for _, part := range []string{f[0], short, n.revision} {
		if part == "" || part != path.Clean(part) || strings.HasPrefix(part, ".") || strings.ContainsAny(part, `\ ?#%`) {
			return name{}, fmt.Errorf("%q: %q cannot be a part of a repository's name", text, part)
		}
	}
	if n.file != "" && !filepath.IsLocal(n.file) {
		return name{}, fmt.Errorf("%q: the file lies outside the repository", text)
	}
	return n, nil
}

// Fetch brings what text names onto this machine and gives its path: of "hf:owner/name", a diffusers directory with
// what this project reads of it, or the only safetensors file; of "hf:owner/name/file", that file. A revision follows
// the name after an @. Where a component has fp16 weights beside others, those are fetched.
//
// Without a connection, what the cache has is used, with a warning.
func Fetch(ctx context.Context, text string, opt Options) (string, error) {
	n, err := parse(text)
	if err != nil {
		return "", err
	}
	r := hub.New(n.repo).WithRevision(n.revision).WithAuth(os.Getenv("HF_TOKEN")).WithCacheDir(cacheDir())
	r.Verbosity = 0
	info := filepath.Join(repoDir(n.repo), "info", n.revision)
	last, _ := os.ReadFile(info) // go-huggingface removes it before it asks for a new one
	offline := r.DownloadInfo(true)
	if offline != nil {
		if last == nil || os.WriteFile(info, last, 0o644) != nil || r.DownloadInfo(false) != nil {
			return "", explain(text, offline)
		}
	}
	var files []string
	for file, err := range r.IterFileNames() {
		if err != nil {
			return "", fmt.Errorf("%s: %w", text, err)
		}
		files = append(files, file)
	}
	commit := r.Info().CommitHash
	if commit == "" || !filepath.IsLocal(commit) {
		return "", fmt.Errorf("%s: the hub does not say the commit", text)
	}
	wanted, folder, err := choose(files, n.file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", text, err)
	}
	d := &downloads{repo: n.repo, commit: commit, endpoint: endpoint(), token: os.Getenv("HF_TOKEN"),
		dir: repoDir(n.repo), progress: opt.Progress}
	if offline != nil {
		if missing := d.missing(wanted); len(missing) > 0 {
			return "", explain(text, offline)
		}
		if opt.Warn != nil {
			opt.Warn(fmt.Sprintf("%s: the hub cannot be reached, so what the cache has is used: %v", text, offline))
		}
	} else if err := d.fetch(ctx, wanted); err != nil {
		return "", explain(text, err)
	}
	if folder {
		return d.snapshot(), nil
	}
	return filepath.Join(d.snapshot(), filepath.FromSlash(wanted[0])), nil
}

func endpoint() string {
	if e := os.Getenv("HF_ENDPOINT"); e != "" {
		return strings.TrimSuffix(e, "/")
	}
	return "https://huggingface.co"
}

func cacheDir() string {
	if dir := os.Getenv("HF_HUB_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("HF_HOME"); dir != "" {
		return filepath.Join(dir, "hub")
	}
	return hub.DefaultCacheDir()
}

// repoDir is a repository's folder in the cache.
func repoDir(repo string) string {
	return filepath.Join(cacheDir(), "models--"+strings.ReplaceAll(repo, "/", "--"))
}

// explain adds what to do about a refusal.
func explain(text string, err error) error {
	answered := func(code string) bool { // by go-huggingface, or by this package
		return strings.Contains(err.Error(), "status code "+code) || strings.Contains(err.Error(), "hub answers "+code)
	}
	switch {
	case answered("401") || answered("403"):
		return fmt.Errorf("%s: the hub refuses: accept the model's licence on its page, and put a token that may read it into HF_TOKEN: %w", text, err)
	case answered("404"):
		return fmt.Errorf("%s: the hub has no such model, revision or file, or HF_TOKEN may not see it: %w", text, err)
	}
	if unreachable := (*url.Error)(nil); errors.As(err, &unreachable) {
		return fmt.Errorf("%s: the hub cannot be reached, and the cache does not have all of it: %w", text, unreachable)
	}
	return fmt.Errorf("%s: %w", text, err)
}

// readers are the components that are read, in the order of a diffusers directory.
var readers = []string{"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"}

// choose lists what to fetch of a repository's files, and whether that is a folder.
func choose(files []string, one string) (wanted []string, folder bool, err error) {
	if one != "" {
		if !slices.Contains(files, one) {
			return nil, false, fmt.Errorf("it has no file %s: %w", one, fs.ErrNotExist)
		}
		return []string{one}, false, nil
	}
	if !slices.Contains(files, "model_index.json") {
		var weights []string
		for _, f := range files {
			if path.Ext(f) == ".safetensors" && !strings.Contains(f, "/") {
				weights = append(weights, f)
			}
		}
		switch len(weights) {
		case 0:
			return nil, false, errors.New("it has neither model_index.json nor a safetensors file")
		case 1:
			return weights, false, nil
		}
		return nil, false, fmt.Errorf("it is no diffusers directory and has several weight files: name one of %s behind the repository", strings.Join(weights, ", "))
	}
	wanted = []string{"model_index.json"}
	for _, component := range readers {
		var small, plain, half []string
		for _, f := range files {
			if path.Dir(f) != component {
				continue
			}
			base := path.Base(f)
			switch {
			case strings.Contains(base, ".non_ema.") || strings.Contains(base, "openvino") || strings.Contains(base, "flax"):
			case strings.Contains(base, ".safetensors") && strings.Contains(base, ".fp16"):
				half = append(half, f)
			case strings.Contains(base, ".safetensors"):
				plain = append(plain, f)
			case path.Ext(base) == ".json" || path.Ext(base) == ".txt":
				small = append(small, f)
			}
		}
		wanted = append(wanted, small...)
		if len(half) > 0 {
			plain = half
		}
		wanted = append(wanted, plain...)
	}
	return wanted, true, nil
}
