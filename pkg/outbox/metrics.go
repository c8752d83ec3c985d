package outbox

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	leader, backlog, lag, gaps prometheus.Gauge
	published, dead            *prometheus.CounterVec
	failures, pruned           prometheus.Counter
	delay                      prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tiffin", Subsystem: "outbox", Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tiffin", Subsystem: "outbox", Name: name, Help: help}
	}
	m := &metrics{
		leader:    gauge("leader", "1 while this process publishes the outbox."),
		backlog:   gauge("backlog_events", "Rows not published yet, as the leader sees it."),
		lag:       gauge("lag_seconds", "Age of the oldest row not published yet, as the leader sees it."),
		gaps:      gauge("gaps", "Missing sequence numbers (as ranges) whose transaction may still commit."),
		published: prometheus.NewCounterVec(counter("published_total", "Records acknowledged by Kafka."), []string{"topic"}),
		dead:      prometheus.NewCounterVec(counter("dead_total", "Records Kafka can never accept, moved to msg.outbox_dead."), []string{"topic"}),
		failures:  prometheus.NewCounter(counter("produce_failures_total", "Times that publishing failed and started again from the stored position.")),
		pruned:    prometheus.NewCounter(counter("pruned_total", "Published rows deleted after their retention.")),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "tiffin", Subsystem: "outbox", Name: "publish_seconds",
			Help:    "Time from writing a row to its acknowledgement by Kafka, per batch, of its first row.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.leader, m.backlog, m.lag, m.gaps, m.published, m.dead, m.failures, m.pruned, m.delay)
	}
	return m
}
