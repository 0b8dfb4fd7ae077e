package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Errors of a Store.
var (
	ErrNotFound = errors.New("no such key")
	ErrExists   = errors.New("the key exists already")
)

// Store keeps values by key in rank 0's memory, for all ranks. XLA's clients find each other through it. Values are binary, keys
// are set once, and nothing is deleted. A store lives as long as one start of the cluster.
type Store struct {
	m      *Member
	prefix string
}

// Store gives the store of a name.
func (m *Member) Store(name string) *Store { return &Store{m, name + "/"} }

func (s *Store) path(key string) string { return "/key?name=" + url.QueryEscape(s.prefix+key) }

// Put sets a key. An error wraps ErrExists where it has another value already.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	err := s.m.call(ctx, "PUT", s.path(key), value, nil)
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusConflict {
		return ErrExists
	}
	return err
}

// TryGet gives a key's value. An error wraps ErrNotFound where it has none yet.
func (s *Store) TryGet(ctx context.Context, key string) (value []byte, err error) {
	err = s.m.call(ctx, "GET", s.path(key), nil, &value)
	var status *statusError
	if errors.As(err, &status) && status.status == http.StatusNotFound {
		return nil, ErrNotFound
	}
	return value, err
}

// Get gives a key's value and waits for it until ctx ends.
func (s *Store) Get(ctx context.Context, key string) (value []byte, err error) {
	for {
		err = s.m.call(ctx, "GET", s.path(key)+"&wait=1", nil, &value)
		var status *statusError
		if !errors.As(err, &status) || status.status != http.StatusNotFound {
			return value, err
		}
	}
}

func (h *hub) put(w http.ResponseWriter, r *http.Request, _ int) {
	key := r.URL.Query().Get("name")
	value, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.keys[key]; ok {
		if !bytes.Equal(old, value) { // the same value may come twice, when an answer was lost on its way
			http.Error(w, "exists", http.StatusConflict)
		}
		return
	}
	h.keys[key] = value
	h.change()
}

func (h *hub) get(w http.ResponseWriter, r *http.Request, _ int) {
	key := r.URL.Query().Get("name")
	limit := time.Duration(0)
	if r.URL.Query().Has("wait") {
		limit = pollTime
	}
	var value []byte
	found := false
	ready := func() bool {
		value, found = h.keys[key]
		return found
	}
	h.wait(r.Context(), limit, ready)
	if !found {
		http.Error(w, "no such key", http.StatusNotFound)
		return
	}
	w.Write(value)
}
