package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/event"
	"github.com/tiffin-platform/tiffin/pkg/inbox"
)

// origin is where a record was first read by the group, on a main topic.
type origin struct {
	topic     string
	partition int32
	offset    int64
	at        time.Time
}

// item is a record on its way through a worker.
type item struct {
	sub   *Subscription // nil: of no topic of the group
	event event.Event
	claim inbox.Claim
	key   inbox.Key
	keyed bool // a record without key has no order and never waits for another

	rawKey, value []byte
	headers       []kgo.RecordHeader
	origin        origin
	firstFailed   time.Time // zero before the first failure

	refused *classified // why no handler may see it

	prepared   any
	prepareErr error
	isPrepared bool
	result     string // what became of it, for metrics and logs
	frees      bool   // it was the head of its key, and its followers' turn comes
}

// level is the number of the retry, 0 on a main topic.
func (it *item) level() int { return int(it.claim.Attempt % redriveStep) }

func (it *item) redrives() int { return int(it.claim.Attempt / redriveStep) }

func (it *item) consumer() int16 { return it.claim.Consumer }

const (
	// redriveStep is what a redrive adds to the number of an attempt.
	redriveStep = 16
	// maxRedrives keeps that number within a smallint.
	maxRedrives = 2000
)

// decode reads a record. level is the number of its topic: 0 main, else retry.
func (c *Consumer) decode(rec *kgo.Record, level int) *item {
	it := &item{
		rawKey: rec.Key, value: rec.Value, headers: rec.Headers,
		origin: origin{topic: rec.Topic, partition: rec.Partition, offset: rec.Offset, at: rec.Timestamp},
	}
	it.claim.Attempt = int16(level)
	if level > 0 {
		c.readRetryHeaders(it)
	} else {
		it.sub = c.subs[rec.Topic]
	}
	c.finish(it)
	return it
}

// readRetryHeaders takes from a retry record what its topic does not say. The
// values may have been forged; each is bounded, and what is unusable is left out.
func (c *Consumer) readRetryHeaders(it *item) {
	if n, err := strconv.Atoi(it.header(inbox.HeaderRedriveCount)); err == nil && n >= 0 && n <= maxRedrives {
		it.claim.Attempt += int16(n * redriveStep)
	}
	it.firstFailed = readTime(it.header(inbox.HeaderFirstFailedAt))
	topic := it.header(inbox.HeaderOrigTopic)
	if it.sub = c.subs[topic]; it.sub == nil {
		it.refused = &classified{classUnroutable, fmt.Errorf("the group does not consume topic %.64q", topic)}
		return
	}
	partition, perr := strconv.ParseInt(it.header(inbox.HeaderOrigPartition), 10, 32)
	offset, oerr := strconv.ParseInt(it.header(inbox.HeaderOrigOffset), 10, 64)
	if perr != nil || oerr != nil || partition < 0 || offset < 0 {
		return
	}
	it.origin.topic, it.origin.partition, it.origin.offset = topic, int32(partition), offset
	if at := readTime(it.header(inbox.HeaderOrigTimestamp)); !at.IsZero() {
		it.origin.at = at
	}
}

// finish reads the event and decides whether a handler may see it.
func (c *Consumer) finish(it *item) {
	var err error
	it.event, err = event.FromRecord(it.header, it.rawKey, it.value)
	if errors.Is(err, event.ErrNoID) || it.event.ID == uuid.Nil {
		it.event.ID = deadletter.DeriveID(it.origin.topic, it.origin.partition, it.origin.offset, it.origin.at)
		err = event.ErrNoID
	}
	it.claim.Event = it.event.ID
	if it.sub != nil {
		it.claim.Consumer = it.sub.Consumer
	}
	if key, ok := inbox.ParkingKey(it.rawKey); ok {
		it.key, it.keyed = inbox.Key{Consumer: it.consumer(), Bytes: key}, true
	}
	switch {
	case it.refused != nil:
	case err != nil:
		it.refused = &classified{classUndecodable, err}
	case it.event.Type != it.sub.Topic:
		it.refused = &classified{classUnknownType, fmt.Errorf("type %.64q on topic %s", it.event.Type, it.sub.Topic)}
	case it.claim.Attempt == 0:
		if at, ok := inbox.TimeOf(it.event.ID); ok && at.Before(c.now().Add(-c.cc.Retention)) {
			it.refused = &classified{classExpired, fmt.Errorf("made at %s, longer ago than handled events are remembered (%s)",
				at.UTC().Format(time.RFC3339), c.cc.Retention)}
		}
	}
}

// fromParked makes an item of an event that waited behind its key.
func (c *Consumer) fromParked(k inbox.Key, e inbox.Event, sub *Subscription) *item {
	it := &item{
		sub: sub, key: k, keyed: true, rawKey: e.Key, value: e.Value, headers: e.Headers,
		claim:  inbox.Claim{Consumer: k.Consumer, Event: e.ID, Attempt: e.Attempt},
		origin: origin{topic: e.Topic, partition: e.Partition, offset: e.Offset, at: e.Time},
	}
	it.firstFailed = readTime(it.header(inbox.HeaderFirstFailedAt))
	it.event, _ = event.FromRecord(it.header, it.rawKey, it.value) // it was readable when it was parked
	it.event.ID = e.ID
	return it
}

// parked returns the item as it is kept behind a parked key.
func (it *item) parked() inbox.Event {
	return inbox.Event{
		ID: it.event.ID, Attempt: it.claim.Attempt, Topic: it.origin.topic, Partition: it.origin.partition,
		Offset: it.origin.offset, Time: it.origin.at, Key: it.rawKey, Value: it.value, Headers: it.headers,
	}
}

// header returns the last value of a header, as text.
func (it *item) header(name string) string {
	for i := len(it.headers) - 1; i >= 0; i-- {
		if it.headers[i].Key == name {
			return string(it.headers[i].Value)
		}
	}
	return ""
}

func readTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 9000 {
		return time.Time{}
	}
	return t
}
