package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics serves the newest record at /metrics for Prometheus:
//
//	fewstep_VALUE{stage,phase}          each of the record's values, such as fewstep_loss_d, and wall-clock figures, such as fewstep_mfu
//	fewstep_phase_samples{stage,phase}  samples done in the phase
//	fewstep_phase_total{stage,phase}    samples of the phase
//	fewstep_position_samples            samples done in the whole run, over continuations
//	fewstep_samples_total               samples done by this process
//	fewstep_step_seconds                histogram of the wall-clock time of a step
//
// Only the present phase has series; older ones go with their phase.
type Metrics struct {
	registry *prometheus.Registry
	server   *http.Server
	addr     string
	failed   chan error

	mu           sync.Mutex
	stage, phase string
	gauges       map[string]*prometheus.GaugeVec
	position     prometheus.Gauge
	samples      prometheus.Counter
	seconds      prometheus.Histogram
	last         int64 // position of the last record
	started      bool
}

// ServeMetrics listens on addr ("localhost:9464", ":0").
func ServeMetrics(addr string) (*Metrics, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("metrics address %s: %w; choose another address or leave metrics off", addr, err)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		addr:     listener.Addr().String(),
		failed:   make(chan error, 1),
		gauges:   map[string]*prometheus.GaugeVec{},
		position: prometheus.NewGauge(prometheus.GaugeOpts{Name: "fewstep_position_samples", Help: "Samples done in the whole run."}),
		samples:  prometheus.NewCounter(prometheus.CounterOpts{Name: "fewstep_samples_total", Help: "Samples done by this process."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fewstep_step_seconds", Help: "Wall-clock time of an optimizer step.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
		}),
	}
	m.registry.MustRegister(m.position, m.samples, m.seconds, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { m.failed <- m.server.Serve(listener) }()
	return m, nil
}

// Addr is the address that is listened on, with its port.
func (m *Metrics) Addr() string { return m.addr }

// Update makes r the record that is served. Update and Close of a nil *Metrics
// do nothing.
func (m *Metrics) Update(r Record) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Stage != m.stage || r.Phase != m.phase {
		m.stage, m.phase = r.Stage, r.Phase
		for _, g := range m.gauges {
			if g != nil {
				g.Reset()
			}
		}
	}
	m.set("phase_samples", float64(r.Samples))
	m.set("phase_total", float64(r.Total))
	for name, v := range r.Values {
		m.set(name, v)
	}
	for name, v := range r.Wall {
		m.set(name, v)
	}
	if m.started && r.Position > m.last {
		m.samples.Add(float64(r.Position - m.last))
	}
	m.started, m.last = true, r.Position
	m.position.Set(float64(r.Position))
	if r.Took > 0 {
		m.seconds.Observe(r.Took.Seconds())
	}
	return nil
}

func (m *Metrics) set(name string, v float64) {
	name = "fewstep_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
	g, ok := m.gauges[name]
	if !ok {
		g = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: "Newest value of the present phase."}, []string{"stage", "phase"})
		if err := m.registry.Register(g); err != nil {
			g = nil // a value that is named like a metric of ours
		}
		m.gauges[name] = g
	}
	if g != nil {
		g.WithLabelValues(m.stage, m.phase).Set(v)
	}
}

// Close stops serving.
func (m *Metrics) Close() error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := m.server.Shutdown(ctx); err != nil {
		m.server.Close()
	}
	if err := <-m.failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
