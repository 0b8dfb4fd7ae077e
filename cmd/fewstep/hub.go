package main

import (
	"context"
	"strings"

	"fewstep/model/hub"
)

// local is the path of a model or file that a user names: of hf:OWNER/NAME, its place in the cache after it was fetched.
func (a *app) local(ctx context.Context, name string) (string, error) {
	if !strings.HasPrefix(name, hub.Prefix) {
		return name, nil
	}
	progress := a.byteProgress("fetch")
	show := func(done, total int64) {
		if a.working != nil {
			a.working("fetching " + name)
		}
		progress.update(done, total)
	}
	path, err := hub.Fetch(ctx, name, hub.Options{Progress: show, Warn: func(text string) { a.log.Warn(text) }})
	if cerr := progress.Close(); err == nil {
		err = cerr
	}
	return path, err
}

// localAll replaces each of the names by its local path.
func (a *app) localAll(ctx context.Context, names ...*string) error {
	for _, name := range names {
		path, err := a.local(ctx, *name)
		if err != nil {
			return err
		}
		*name = path
	}
	return nil
}
