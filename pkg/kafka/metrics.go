package kafka

import (
	"sort"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records *prometheus.CounterVec
	batch   prometheus.Histogram
	handler *prometheus.HistogramVec
	retries *prometheus.CounterVec
	dead    *prometheus.CounterVec
	down    prometheus.Gauge
	open    prometheus.Gauge
	oldest  prometheus.Gauge
	keys    prometheus.Gauge
	events  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_consumer_records_total",
			Help: "Records by main topic and by what became of them: processed, duplicate, parked, retried, dead.",
		}, []string{"topic", "result"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tiffin_consumer_batch_records", Help: "Records taken at once from one partition.",
			Buckets: []float64{1, 2, 5, 10, 25, 50, 100, 250, 500},
		}),
		handler: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tiffin_consumer_handler_seconds", Help: "Time in handlers, by main topic and step: prepare, load, apply.",
			Buckets: []float64{.00001, .0001, .001, .005, .025, .1, .5, 2.5, 10, 30},
		}, []string{"topic", "step"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_consumer_retries_total", Help: "Retries written, by main topic and number of the retry.",
		}, []string{"topic", "retry"}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tiffin_consumer_dead_letters_total", Help: "Dead letters written, by main topic and class of the error.",
		}, []string{"topic", "class"}),
		down: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tiffin_consumer_database_down", Help: "1 while consuming stands still because the database does not answer.",
		}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tiffin_dead_letters_open", Help: "Dead letters that nobody redrove or discarded.",
		}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tiffin_dead_letters_oldest_seconds", Help: "Age of the oldest open dead letter, 0 without one.",
		}),
		keys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tiffin_consumer_parked_keys", Help: "Keys that wait for a retry.",
		}),
		events: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tiffin_consumer_parked_events", Help: "Events that wait at or behind the head of a parked key.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.records, m.batch, m.handler, m.retries, m.dead, m.down, m.open, m.oldest, m.keys, m.events)
	}
	return m
}

// tally counts results by topic within one batch.
type tally map[[2]string]int

func (t tally) add(topic, result string) { t[[2]string{topic, result}]++ }

func (m *metrics) observe(t tally, records int) {
	m.batch.Observe(float64(records))
	m.count(t)
}

func (m *metrics) count(t tally) {
	for k, n := range t {
		m.records.WithLabelValues(k[0], k[1]).Add(float64(n))
	}
}

// attrs returns the counts by result, for the batch's log line.
func (t tally) attrs() []any {
	sums := map[string]int{}
	for k, n := range t {
		sums[k[1]] += n
	}
	names := make([]string, 0, len(sums))
	for name := range sums {
		names = append(names, name)
	}
	sort.Strings(names)
	attrs := make([]any, 0, 2*len(names))
	for _, name := range names {
		attrs = append(attrs, name, sums[name])
	}
	return attrs
}

// progress collects how far the assigned partitions are behind, by topic.
type progress struct {
	c           *Consumer
	lag, queued *prometheus.Desc
}

func newProgress(c *Consumer) progress {
	return progress{
		c: c,
		lag: prometheus.NewDesc("tiffin_consumer_lag_records",
			"Records behind the end of the topic, over the partitions assigned to this process.", []string{"topic"}, nil),
		queued: prometheus.NewDesc("tiffin_consumer_queued_records",
			"Records fetched and not yet taken, over the same partitions.", []string{"topic"}, nil),
	}
}

// Describe sends the descriptions.
func (p progress) Describe(ch chan<- *prometheus.Desc) { ch <- p.lag; ch <- p.queued }

// Collect sums over the workers; it asks no broker.
func (p progress) Collect(ch chan<- prometheus.Metric) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	behind, queued := map[string]int64{}, map[string]int{}
	for at, w := range p.c.workers {
		if end, next := w.end.Load(), w.next.Load(); next >= 0 {
			behind[at.topic] += max(0, end-next)
		}
		w.queue.mu.Lock()
		queued[at.topic] += len(w.queue.records)
		w.queue.mu.Unlock()
	}
	for topic, n := range queued {
		ch <- prometheus.MustNewConstMetric(p.lag, prometheus.GaugeValue, float64(behind[topic]), topic)
		ch <- prometheus.MustNewConstMetric(p.queued, prometheus.GaugeValue, float64(n), topic)
	}
}
