package outbox_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// BenchmarkRelay publishes a backlog of 100,000 events of about 500 bytes.
func BenchmarkRelay(b *testing.B) {
	for _, batch := range []int{500, 1000, 2000, 5000} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			const events = 100_000
			var took time.Duration
			for range b.N {
				b.StopTimer()
				w := newWorld(b)
				w.backfill(events)
				relay := w.relay(outbox.RelayConfig{Batch: batch})
				b.StartTimer()
				started := time.Now()
				stop := run(b, relay.Run)
				w.reaches(events)
				took += time.Since(started)
				b.StopTimer()
				stop()
			}
			b.ReportMetric(float64(b.N)*events/took.Seconds(), "events/s")
		})
	}
}

// backfill writes n committed rows in the database's own loop.
func (w *world) backfill(n int) {
	w.t.Helper()
	e := newEvent("0198f5b6-0000-7000-8000-000000000000")
	_, err := w.pool.Exec(context.Background(), `
		insert into msg.outbox (event_id, topic, key, value, headers)
		select gen_random_uuid(), $2, convert_to('key-' || i % 1000, 'UTF8'), $3, $4 from generate_series(1, $1::int) i`,
		n, topic, append([]byte(nil), make([]byte, 300)...), outbox.EncodeEvent(e))
	require.NoError(w.t, err)
	_, err = w.pool.Exec(context.Background(), `analyze msg.outbox`)
	require.NoError(w.t, err)
}

// BenchmarkCommit compares a business commit with and without an event.
func BenchmarkCommit(b *testing.B) {
	for _, emit := range []bool{false, true} {
		b.Run(fmt.Sprintf("emit=%t", emit), func(b *testing.B) {
			w := newWorld(b)
			_, err := w.pool.Exec(b.Context(), `create table accounts (id int primary key, n int not null default 0);
				insert into accounts (id) select generate_series(1, 1000)`)
			require.NoError(b, err)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				ctx := context.Background()
				for i := 0; pb.Next(); i++ {
					err := w.db.InTx(ctx, func(tx *outbox.Tx) error {
						var n int
						if err := tx.QueryRow(ctx, `select n from accounts where id = $1 for update`, 1+i%1000).Scan(&n); err != nil {
							return err
						}
						tx.Queue(`update accounts set n = $2 where id = $1`, 1+i%1000, n+1)
						if emit {
							tx.Emit(ctx, newEvent("k"))
						}
						return nil
					})
					if err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkLatency writes 1,000 events per second and reports how long it takes
// from the begin of the writing transaction until a consumer has the record.
func BenchmarkLatency(b *testing.B) {
	w := newWorld(b)
	run(b, w.bell.Run)
	run(b, w.relay(outbox.RelayConfig{}).Run)
	w.emit("first", "second") // everything is connected
	w.drained()
	consumer := w.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for got := 0; got < 2; {
		got += consumer.PollFetches(b.Context()).NumRecords()
	}
	const rate = 1000
	n := max(b.N, 3000)
	took := make(chan time.Duration, n)
	go func() {
		for got := 0; got < n; {
			f := consumer.PollFetches(context.Background())
			if f.IsClientClosed() {
				return
			}
			f.EachRecord(func(r *kgo.Record) {
				began, _ := strconv.ParseInt(string(r.Value), 10, 64)
				took <- time.Since(time.Unix(0, began))
				got++
			})
		}
		close(took)
	}()
	b.ResetTimer()
	start := time.Now()
	sem := make(chan struct{}, 8)
	for i := range n {
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / rate))) //nolint:forbidigo // an open-loop arrival
		began := time.Now()
		sem <- struct{}{}
		go func() {
			defer func() { <-sem }()
			e := newEvent(strconv.Itoa(i % 100))
			e.Data = strconv.AppendInt(nil, began.UnixNano(), 10)
			if err := w.db.InTx(context.Background(), func(tx *outbox.Tx) error { tx.Emit(context.Background(), e); return nil }); err != nil {
				b.Error(err)
			}
		}()
	}
	all := make([]time.Duration, 0, n)
	for d := range took {
		all = append(all, d)
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[n/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[n*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}
