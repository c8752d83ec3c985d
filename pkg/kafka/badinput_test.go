package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

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

// Each bad record has a written outcome, and the one after it on the same
// partition is handled.
func TestBadRecords(t *testing.T) {
	good := func() *kgo.Record { return record(order(uuid.New(), "fine")) }
	old := func() *kgo.Record {
		id := uuid.Must(uuid.NewV7())
		at := time.Now().Add(-15 * 24 * time.Hour).UnixMilli()
		for i := range 6 {
			id[i] = byte(at >> (8 * (5 - i)))
		}
		return setHeader(good(), "ce_id", id.String())
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
		"older than the memory": {old(), "expired"},
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
