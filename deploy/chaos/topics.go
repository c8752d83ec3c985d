//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/deploy/local/broker"
	"github.com/tiffin-platform/tiffin/pkg/event"
)

// groups are the services that consume.
var groups = []string{"order-service", "payment-service", "notification-service"}

// lag names the partitions that a group has not read to their end.
func (c *checker) lag(ctx context.Context) ([]string, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	lags, err := kadm.NewClient(client).Lag(ctx, groups...)
	if err != nil {
		return nil, fmt.Errorf("read the groups' offsets: %w", err)
	}
	var behind []string
	for _, group := range lags.Sorted() {
		if err := group.Error(); err != nil {
			return nil, fmt.Errorf("group %s: %w", group.Group, err)
		}
		for _, l := range group.Lag.Sorted() {
			if l.Lag > 0 {
				behind = append(behind, fmt.Sprintf("%s is %d records behind in %s/%d", group.Group, l.Lag, l.Topic, l.Partition))
			}
		}
	}
	return behind, nil
}

// unordered is the topic whose writers nothing serialises: notifications of one
// order are independent of each other, and so are their deliveries.
const unordered = event.TypeNotificationDeliveryRequested

// topics requires the topics to hold exactly what the outboxes say, in the same
// order for each key. A record may be there again, when a relay was killed or
// stopped between the broker's acknowledgement and its note of it; never first
// after a later one of its key.
func (c *checker) topics(ctx context.Context, v *verdict, _ []*order) error {
	type place struct{ topic, id string }
	type entry struct {
		service, key string
		seq          int64
		read         bool
	}
	outbox := map[place]*entry{}
	for _, name := range withDatabase {
		rows, err := c.pools[name].Query(ctx, `select topic, event_id::text, coalesce(convert_from(key, 'utf8'), ''), min(seq) from msg.outbox group by 1, 2, 3`)
		if err != nil {
			return err
		}
		var p place
		var e entry
		_, err = pgx.ForEachRow(rows, []any{&p.topic, &p.id, &e.key, &e.seq}, func() error {
			outbox[p] = &entry{service: name, key: e.key, seq: e.seq}
			return nil
		})
		if err != nil {
			return err
		}
	}
	last := map[place]int64{} // by topic and key
	err := c.records(ctx, func(r *kgo.Record) {
		v.records++
		id := ""
		for _, h := range r.Headers {
			if h.Key == "ce_id" {
				id = string(h.Value)
			}
		}
		e := outbox[place{r.Topic, id}]
		if e == nil {
			v.wrong("%s/%d/%d holds %s %s, which is in no outbox", r.Topic, r.Partition, r.Offset, r.Key, id)
			return
		}
		if e.read {
			v.redundant++
			return
		}
		e.read = true
		stream := place{r.Topic, e.key}
		if r.Topic != unordered && e.seq < last[stream] {
			v.wrong("%s/%d/%d: event %s of %s comes after one that was emitted later", r.Topic, r.Partition, r.Offset, id, e.key)
		}
		last[stream] = e.seq
	})
	if err != nil {
		return err
	}
	for p, e := range outbox {
		if !e.read {
			v.wrong("%s %s of %s was emitted by %s and is not in the topic", p.topic, p.id, e.key, e.service)
		}
	}
	return nil
}

// records calls each for every record of every topic, in the order of its
// partition.
func (c *checker) records(ctx context.Context, each func(*kgo.Record)) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...), kgo.FetchMaxWait(200*time.Millisecond), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, broker.Topics()...)
	if err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	if err := ends.Error(); err != nil {
		return fmt.Errorf("list offsets: %w", err)
	}
	type partition struct {
		topic string
		n     int32
	}
	todo := map[partition]int64{}
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			todo[partition{o.Topic, o.Partition}] = o.Offset
			if from[o.Topic] == nil {
				from[o.Topic] = map[int32]kgo.Offset{}
			}
			from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
		}
	})
	client.AddConsumePartitions(from)
	for len(todo) > 0 {
		quiet, cancel := context.WithTimeout(ctx, 20*time.Second)
		fetches := client.PollFetches(quiet)
		cancel()
		if errors.Is(fetches.Err0(), context.DeadlineExceeded) {
			return fmt.Errorf("%d partitions cannot be read to their end", len(todo))
		}
		if err := fetches.Err0(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				each(r)
			}
			p := partition{r.Topic, r.Partition}
			if r.Offset+1 >= todo[p] {
				delete(todo, p)
			}
		})
	}
	return nil
}
