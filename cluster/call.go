package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// refusedByPeer says whether something took the connection that does not speak TLS 1.3: it says something else, nothing, or
// closes.
func refusedByPeer(err error) bool {
	var header tls.RecordHeaderError
	var alert tls.AlertError
	var silent *shakeError
	return errors.As(err, &header) || errors.As(err, &alert) || errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &silent)
}

// shakeError is a TLS handshake to which the other side said nothing.
type shakeError struct{ err error }

func (e *shakeError) Error() string {
	if errors.Is(e.err, context.DeadlineExceeded) {
		return "it takes the connection and says nothing"
	}
	return "it closes the connection: " + e.err.Error()
}

// shakeTime is how long a TLS handshake may take.
const shakeTime = 5 * time.Second

// dialer connects and makes the TLS handshake, within limit.
func dialer(conf *tls.Config, limit time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := plain.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		secure := tls.Client(c, conf)
		short, stop := context.WithTimeout(ctx, limit)
		defer stop()
		if err = secure.HandshakeContext(short); err == nil {
			return secure, nil
		}
		c.Close()
		if ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
			err = &shakeError{err}
		}
		return nil, err
	}
}

// plain is an error without the request that it came from.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer")
	}
	return err
}

// statusError is an answer that is none of success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("rendezvous: %d %s", e.status, e.text) }

// once makes one call. in is sent as JSON, or as it is where it is bytes; out takes the answer likewise.
func (m *Member) once(ctx context.Context, base, method, path string, in, out any) error {
	body, ok := in.([]byte)
	if !ok && in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set(rankHeader, strconv.Itoa(m.place.Rank))
	r.Header.Set(sessionHeader, m.session)
	answer, err := m.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, mostContent))
	switch {
	case err != nil:
		return err
	case answer.StatusCode == http.StatusGone:
		var f Failure
		if err := json.Unmarshal(content, &f); err != nil {
			return err
		}
		return &f
	case answer.StatusCode != http.StatusOK:
		return &statusError{answer.StatusCode, string(bytes.TrimSpace(content))}
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = content
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(content, out)
}

// call makes a call until it is answered, the cluster fails or ctx ends.
func (m *Member) call(ctx context.Context, method, path string, in, out any) error {
	for {
		if err := m.err(ctx); err != nil {
			return err
		}
		short, stop := context.WithTimeout(ctx, answerTime)
		release := context.AfterFunc(m.ctx, stop)
		err := m.once(short, m.base, method, path, in, out)
		release()
		stop()
		var f *Failure
		var status *statusError
		if errors.As(err, &f) {
			m.cancel(f)
		}
		if err == nil || errors.As(err, &status) {
			return err
		}
		select { // the heartbeat decides whether rank 0 is lost
		case <-ctx.Done():
		case <-m.ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// err is what ended the cluster or the context.
func (m *Member) err(ctx context.Context) error {
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}
