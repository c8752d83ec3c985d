package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/kafka"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

func setHeader(rec *kgo.Record, name, value string) *kgo.Record {
	for i := range rec.Headers {
		if rec.Headers[i].Key == name {
			rec.Headers[i].Value = []byte(value)
			return rec
		}
	}
	rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	return rec
}

// idOf returns an id that says it was made at t.
func idOf(t time.Time) uuid.UUID {
	id := uuid.Must(uuid.NewV7())
	for i := range 6 {
		id[i] = byte(t.UnixMilli() >> (8 * (5 - i)))
	}
	return id
}

// Each bad record has a written outcome, and the one after it on the same
// partition is handled.
func TestBadRecords(t *testing.T) {
	good := func() *kgo.Record { return record(order(uuid.New(), "fine")) }
	made := func(ago time.Duration) *kgo.Record {
		return setHeader(good(), "ce_id", idOf(time.Now().Add(-ago)).String())
	}
	forged := func() *kgo.Record {
		rec := good()
		for _, h := range []string{"x-retry-count", "x-redrive-count", "x-orig-partition", "x-orig-offset"} {
			setHeader(rec, h, "-99999999999999999999")
		}
		setHeader(rec, "x-orig-topic", "user.registered")
		return setHeader(rec, "x-retry-due", "9999-12-31T23:59:59Z")
	}
	with := func(change func(*kgo.Record)) *kgo.Record {
		rec := good()
		change(rec)
		return rec
	}
	tests := map[string]struct {
		rec   *kgo.Record
		class string // of its dead letter; "": it takes effect
	}{
		"no headers":            {with(func(r *kgo.Record) { r.Headers = nil }), "undecodable"},
		"no id":                 {setHeader(good(), "ce_id", ""), "undecodable"},
		"nil id":                {setHeader(good(), "ce_id", uuid.Nil.String()), "undecodable"},
		"id in another form":    {setHeader(good(), "ce_id", "urn:uuid:"+uuid.NewString()), "undecodable"},
		"another spec version":  {setHeader(good(), "ce_specversion", "0.3"), "undecodable"},
		"no type":               {setHeader(good(), "ce_type", ""), "undecodable"},
		"unknown type":          {setHeader(good(), "ce_type", "order.teleported"), "unknown_type"},
		"type with NUL":         {setHeader(good(), "ce_type", "order\x00\xff"), "unknown_type"},
		"poison bytes":          {with(func(r *kgo.Record) { r.Value = []byte{0xff, 0x00, 0x01} }), "undecodable"},
		"truncated JSON":        {with(func(r *kgo.Record) { r.Value = r.Value[:len(r.Value)/2] }), "undecodable"},
		"wrong types":           {with(func(r *kgo.Record) { r.Value = []byte(`{"order_id":7}`) }), "undecodable"},
		"null value":            {with(func(r *kgo.Record) { r.Value = nil }), "undecodable"},
		"empty value":           {with(func(r *kgo.Record) { r.Value = []byte{} }), "undecodable"},
		"null key":              {with(func(r *kgo.Record) { r.Key = nil }), ""},
		"long key":              {with(func(r *kgo.Record) { r.Key = bytes.Repeat([]byte{0}, 20_000) }), ""},
		"huge headers":          {setHeader(good(), "x-huge", strings.Repeat("\xfe", 64<<10)), ""},
		"unusable time":         {setHeader(good(), "ce_time", "yesterday"), ""},
		"unusable traceparent":  {setHeader(good(), "traceparent", "00-zz"), ""},
		"repeated headers":      {with(func(r *kgo.Record) { r.Headers = append(r.Headers, r.Headers...) }), ""},
		"older than the memory": {made(15 * 24 * time.Hour), "expired"},
		"from 1970":             {setHeader(good(), "ce_id", idOf(time.UnixMilli(0)).String()), "expired"},
		"from next year":        {made(-365 * 24 * time.Hour), ""},
		"from the last ms":      {setHeader(good(), "ce_id", idOf(time.UnixMilli(1<<48-1)).String()), ""},
		"recorded in 1970":      {with(func(r *kgo.Record) { r.Timestamp = time.UnixMilli(1) }), ""},
		"recorded in 50 min":    {with(func(r *kgo.Record) { r.Timestamp = time.Now().Add(50 * time.Minute) }), ""},
		"UTF-16 headers":        {setHeader(good(), "ce_id", "\xff\xfe0\x001\x009\x00"), "undecodable"},
		"UTF-16 data":           {with(func(r *kgo.Record) { r.Value = []byte("\xff\xfe{\x00}\x00") }), "undecodable"},
		"huge id":               {setHeader(good(), "ce_id", strings.Repeat("0", 64<<10)), "undecodable"},
		"huge type":             {setHeader(good(), "ce_type", strings.Repeat("t", 64<<10)), "unknown_type"},
		"huge subject":          {setHeader(good(), "ce_subject", strings.Repeat("s", 64<<10)), ""},
		"another subject":       {setHeader(good(), "ce_subject", uuid.NewString()), ""},
		"empty key":             {with(func(r *kgo.Record) { r.Key = []byte{} }), ""},
		"null header":           {with(func(r *kgo.Record) { r.Headers = append(r.Headers, kgo.RecordHeader{Key: "ce_id"}) }), "undecodable"},
		"nameless header":       {with(func(r *kgo.Record) { r.Headers = append(r.Headers, kgo.RecordHeader{Value: []byte("x")}) }), ""},
		"1,000 headers":         {with(func(r *kgo.Record) { r.Headers = append(r.Headers, make([]kgo.RecordHeader, 1000)...) }), ""},
		"deep JSON":             {with(func(r *kgo.Record) { r.Value = []byte(strings.Repeat(`{"a":`, 100_000)) }), "undecodable"},
		"forged retry headers":  {forged(), ""},
		"unknown fields":        {with(func(r *kgo.Record) { r.Value = append([]byte(`{"new":{"a":[1]},`), r.Value[1:]...) }), ""},
	}
	r := setupOnePartition(t)
	r.consume(kafka.On(number, topic, apply))
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := r.count(`select count(*) from effects`)
			after := good()
			r.produceRecords(test.rec)
			r.produceRecords(after)
			want := before + 1
			if test.class == "" {
				want++
			}
			r.eventually("both have their outcome", func() bool {
				return r.count(`select count(*) from effects`) == want
			})
			if test.class == "" {
				return
			}
			r.eventually("it is dead", func() bool {
				return r.count(`select count(*) from msg.dead_letters where topic = $1 and partition = $2 and "offset" = $3 and error_class = $4 and attempts = 1
					and value is not distinct from $5 and key is not distinct from $6`,
					topic, test.rec.Partition, test.rec.Offset, test.class, test.rec.Value, test.rec.Key) == 1
			})
		})
	}
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
	letters := r.count(`select count(*) from msg.dead_letters`)
	got := r.read(dlq, letters)
	require.Len(t, got, letters)
	r.eventually("offsets are committed", func() bool { return r.committed(topic) })
}

// Whatever stands in a retry topic comes to an end too.
func TestBadRetryRecords(t *testing.T) {
	r := setup(t)
	r.consume(kafka.On(number, topic, apply))
	r.eventually("topics exist", func() bool { return r.exists(dlq) })
	to := func(rec *kgo.Record, n int) *kgo.Record {
		rec.Topic = kafka.RetryTopic(group, n)
		return rec
	}
	far := setHeader(setHeader(record(order(uuid.New(), "due in the far future")), "x-orig-topic", topic), "x-retry-due", "8999-01-01T00:00:00Z")
	negative := setHeader(setHeader(setHeader(record(order(uuid.New(), "negative")), "x-orig-topic", topic), "x-orig-offset", "-1"), "x-redrive-count", "-5")
	r.produceRecords(
		to(setHeader(record(order(uuid.New(), "foreign")), "x-orig-topic", "user.registered"), 1),
		to(setHeader(record(order(uuid.New(), "loop")), "x-orig-topic", kafka.RetryTopic(group, 1)), 2),
		to(&kgo.Record{Value: []byte("?")}, 3),
		to(far, 1), to(negative, 2),
	)
	r.eventually("the readable ones take effect", func() bool { return r.count(`select count(*) from effects`) == 2 })
	r.eventually("the others are dead", func() bool {
		return r.count(`select count(*) from msg.dead_letters where error_class = 'unroutable'`) == 3
	})
}

// A clock that is set back while a retry waits does not make it wait longer.
func TestClockSetBack(t *testing.T) {
	r := setup(t)
	id := uuid.New()
	var back atomic.Bool
	sub, _ := failing(2, errors.New("not yet"), "x")
	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, r.reg, sub)
	require.NoError(t, err)
	c.Clock(func() time.Time {
		if back.Load() {
			return time.Now().Add(-time.Hour)
		}
		return time.Now()
	})
	c.At(func(_, what string) { back.Store(back.Load() || what == "failure") })
	r.background(c.Run)
	r.produce(order(id, "x"))
	r.eventually("it is retried in its time", func() bool { return len(r.notes(id)) == 1 })
}

// A clock that runs ahead takes new events for old ones: they are dead letters,
// which a redrive brings back. It does not forget what was handled.
func TestClockFarAhead(t *testing.T) {
	r := setup(t)
	r.cc.PruneInterval = 10 * time.Millisecond
	id := uuid.New()
	first := order(id, "first")
	stop := r.consume(kafka.On(number, topic, apply))
	r.produce(first)
	r.eventually("it is handled", func() bool { return len(r.notes(id)) == 1 })
	stop()

	c, err := kafka.NewConsumer(r.cfg, r.cc, r.db, r.log, nil, kafka.On(number, topic, apply))
	require.NoError(t, err)
	var asked atomic.Int64
	c.Clock(func() time.Time { asked.Add(1); return time.Now().Add(365 * 24 * time.Hour) })
	stop = r.background(c.Run)
	r.produce(order(id, "second"))
	r.eventually("it takes the event for an old one", func() bool {
		return r.count(`select count(*) from msg.dead_letters where error_class = 'expired'`) == 1
	})
	pruned := asked.Load() + 20
	r.eventually("it has pruned", func() bool { return asked.Load() > pruned })
	stop()

	r.consume(kafka.On(number, topic, apply))
	r.produce(first)
	_, err = deadletter.NewStore(r.db, group).Redrive(t.Context(), deadletter.Command{Actor: "ada"})
	require.NoError(t, err)
	r.eventually("the redriven one is handled", func() bool { return len(r.notes(id)) >= 2 && r.committed(topic) })
	require.Equal(t, []string{"first", "second"}, r.notes(id))
}

// A topic may allow more than a retry topic can take. Such a record is dead at
// its first failure; the largest ones are in the table only.
func TestRecordTooLargeForARetry(t *testing.T) {
	r := setup(t)
	large := event.TypeOrderStatusChanged
	size := "2000000"
	_, err := r.broker.Admin.CreateTopic(t.Context(), 1, -1, map[string]*string{"max.message.bytes": &size}, large)
	require.NoError(t, err)
	client, err := kafka.NewClient(r.cfg, "test", r.log, nil, kgo.ProducerBatchMaxBytes(2_000_000))
	require.NoError(t, err)
	defer client.Close()
	r.consume(kafka.Subscription{Consumer: number, Topic: large, Apply: func(context.Context, *outbox.Tx, event.Event, any) error {
		return errors.New("not today")
	}})
	for _, n := range []int{1_110_000, 1_300_000} {
		rec := record(event.New("test", event.OrderStatusChanged{OrderID: uuid.New(), To: strings.Repeat("x", n)}))
		require.NoError(t, client.ProduceSync(t.Context(), rec).FirstErr())
	}
	r.eventually("both are dead", func() bool {
		return r.count(`select count(*) from msg.dead_letters where error_class = 'oversize'`) == 2
	})
	require.Len(t, r.read(dlq, 1), 1)
	require.Zero(t, r.size(kafka.RetryTopic(group, 1)))
}
