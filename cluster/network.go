package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Clock compares this machine's clock with rank 0's: ahead is how far rank 0's is ahead of it, trip how long a question to
// rank 0 and its answer take. The error of ahead is at most half a trip.
func (m *Member) Clock(ctx context.Context) (ahead, trip time.Duration, err error) {
	for range 5 { // the shortest trip has the smallest error
		var c clock
		asked := time.Now()
		if err := m.call(ctx, "GET", "/clock", nil, &c); err != nil {
			return 0, 0, err
		}
		if took := time.Since(asked); trip == 0 || took < trip {
			ahead, trip = c.Time.Sub(asked.Add(took/2)), took
		}
	}
	return ahead, trip, nil
}

// Unreachable tries to connect to every other rank at a port that the system gave it, as NCCL will, and lists those that it
// could not, with why. All ranks call it together.
func (m *Member) Unreachable(ctx context.Context) ([]string, error) {
	conf, err := credentials(m.opt.Secret)
	if err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", ":0", conf)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c.SetDeadline(time.Now().Add(10 * time.Second))
				c.(*tls.Conn).Handshake()
				c.Close()
			}()
		}
	}()
	ip, err := m.ownAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	all, err := m.Gather(ctx, "addresses", []byte(net.JoinHostPort(ip, port)))
	if err != nil {
		return nil, err
	}
	failed := make([]string, len(all))
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: conf}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for rank, address := range all {
		if rank == m.Rank() {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			short, stop := context.WithTimeout(ctx, 10*time.Second)
			defer stop()
			c, err := dialer.DialContext(short, "tcp", string(address))
			if err != nil {
				failed[rank] = fmt.Sprintf("%s at %s: %v", rankName(rank, m.hostOf(rank)), address, plain(err))
				return
			}
			c.Close()
		})
	}
	wg.Wait()
	if _, err := m.Gather(ctx, "connections", nil); err != nil { // until all have tried, this rank listens
		return nil, err
	}
	var out []string
	for _, text := range failed {
		if text != "" {
			out = append(out, text)
		}
	}
	return out, nil
}

// ownAddress is this machine's address on the way to rank 0.
func (m *Member) ownAddress() (string, error) {
	c, err := net.Dial("udp", m.place.Address) // sends nothing
	if err != nil {
		return "", fmt.Errorf("the way to rank 0: %w", err)
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return strings.TrimSpace(host), err
}
