package inbox

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// maxParkingKey keeps a key well under what an index entry may hold.
const maxParkingKey = 512

// ParkingKey returns what stands for a record's key in the parked tables: the
// key, or a digest of a long one. Nothing stands for a missing key; its records
// have no order.
func ParkingKey(key []byte) (string, bool) {
	if key == nil {
		return "", false
	}
	if len(key) > maxParkingKey {
		sum := sha256.Sum256(key)
		return "sha256:" + string(sum[:]), true
	}
	return string(key), true
}

// Event is a record as it is kept behind a parked key.
type Event struct {
	Seq       int64
	ID        uuid.UUID
	Attempt   int16
	Topic     string // where it was read
	Partition int32
	Offset    int64
	Time      time.Time // the record's own
	Key       []byte
	Value     []byte
	Headers   []kgo.RecordHeader
}

// lease is how long a drain that stopped is left alone before a sweeper takes
// it over. It saves double work; order rests on the lock of the key's row.
const lease = "30 seconds"

const insertEvent = `insert into msg.parked_events
	(consumer, key, event_id, attempt, topic, partition, "offset", recorded_at, record_key, headers, value)
	values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

func queueEvent(tx *outbox.Tx, k Key, e Event) {
	tx.Queue(insertEvent, k.Consumer, []byte(k.Bytes), [16]byte(e.ID), e.Attempt, e.Topic, e.Partition, e.Offset,
		e.Time, e.Key, outbox.EncodeHeaders(e.Headers), e.Value)
}

// Park makes e the head of key k, to be tried as e.Attempt at due. It reports
// false, and does nothing, when another transaction parked k just now.
func Park(ctx context.Context, tx *outbox.Tx, k Key, e Event, due time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, `insert into msg.parked_keys (consumer, key, head_event, head_attempt, head_due)
		values ($1, $2, $3, $4, $5) on conflict do nothing`, k.Consumer, []byte(k.Bytes), [16]byte(e.ID), e.Attempt, due)
	if err != nil || tag.RowsAffected() == 0 {
		return false, err
	}
	queueEvent(tx, k, e)
	return true, nil
}

// Follow puts e behind the head of k, whose row the transaction has locked.
func Follow(tx *outbox.Tx, k Key, e Event) { queueEvent(tx, k, e) }

// Repark gives the event in the lowest row of k, be it the head or a follower
// that failed, its next attempt. The transaction has locked k. It reports false,
// and does nothing, when the event is not there any more: somebody handled it.
func Repark(ctx context.Context, tx *outbox.Tx, k Key, e Event, due time.Time) (bool, error) {
	tag, err := tx.Exec(ctx, `update msg.parked_events set attempt = $4, headers = $5
		where consumer = $1 and key = $2 and event_id = $3`,
		k.Consumer, []byte(k.Bytes), [16]byte(e.ID), e.Attempt, outbox.EncodeHeaders(e.Headers))
	if err != nil || tag.RowsAffected() == 0 {
		return false, err
	}
	tx.Queue(`update msg.parked_keys set head_event = $3, head_attempt = $4, head_due = $5, lease_until = '-infinity'
		where consumer = $1 and key = $2`, k.Consumer, []byte(k.Bytes), [16]byte(e.ID), e.Attempt, due)
	return true, nil
}

// Finish ends the wait for event id, the head of k: the key is free, or its
// followers come next. Queue it after every Follow of the transaction, which has
// locked k.
func Finish(tx *outbox.Tx, k Key, id uuid.UUID) {
	tx.Queue(`delete from msg.parked_events where consumer = $1 and key = $2 and event_id = $3`,
		k.Consumer, []byte(k.Bytes), [16]byte(id))
	release(tx, k)
}

// release frees k when nothing waits behind it, and else opens it for draining.
func release(tx *outbox.Tx, k Key) {
	tx.Queue(`delete from msg.parked_keys k where consumer = $1 and key = $2
		and (select seq from msg.parked_events e where e.consumer = k.consumer and e.key = k.key order by e.seq limit 1) is null`,
		k.Consumer, []byte(k.Bytes))
	tx.Queue(`update msg.parked_keys set head_event = null, head_attempt = 0, head_due = now(), lease_until = now() + interval '`+lease+`'
		where consumer = $1 and key = $2`, k.Consumer, []byte(k.Bytes))
}

// Waiting returns the state of k and its first events, at most limit, in order,
// without locking anything. found is false when k is not parked.
func Waiting(ctx context.Context, pool *pgxpool.Pool, k Key, limit int) (state Parked, events []Event, found bool, err error) {
	_, parked, err := Look(ctx, pool, nil, []Key{k})
	if err != nil {
		return state, nil, false, err
	}
	if state, found = parked[k]; !found {
		return state, nil, false, nil
	}
	rows, err := pool.Query(ctx, `select seq, event_id, attempt, topic, partition, "offset", recorded_at, record_key, headers, value
		from msg.parked_events where consumer = $1 and key = $2 order by seq limit $3`, k.Consumer, []byte(k.Bytes), limit)
	if err != nil {
		return state, nil, false, fmt.Errorf("read parked events: %w", err)
	}
	events, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Event, error) {
		var e Event
		var id [16]byte
		var headers []byte
		if err := row.Scan(&e.Seq, &id, &e.Attempt, &e.Topic, &e.Partition, &e.Offset, &e.Time, &e.Key, &headers, &e.Value); err != nil {
			return e, err
		}
		e.ID = id
		var err error
		e.Headers, err = outbox.DecodeHeaders(headers)
		return e, err
	})
	if err != nil {
		return state, nil, false, fmt.Errorf("read parked events: %w", err)
	}
	return state, events, true, nil
}

// Take deletes events of k that Waiting returned, in the transaction that
// handles them, and reports whether all were still there. It is the fence
// between two that drain one key.
func Take(ctx context.Context, tx *outbox.Tx, k Key, events []Event) (bool, error) {
	seqs := make([]int64, len(events))
	for i, e := range events {
		seqs[i] = e.Seq
	}
	tag, err := tx.Exec(ctx, `delete from msg.parked_events where consumer = $1 and key = $2 and seq = any($3)`,
		k.Consumer, []byte(k.Bytes), seqs)
	return err == nil && tag.RowsAffected() == int64(len(events)), err
}

// Release ends a step of draining: k is free, or more follows. The transaction
// has locked k.
func Release(tx *outbox.Tx, k Key) { release(tx, k) }

// Stopped returns keys whose draining stopped, or whose head is overdue by
// grace, and leases them so that other sweepers leave them alone for a while.
func Stopped(ctx context.Context, pool *pgxpool.Pool, grace time.Duration, limit int) ([]Key, error) {
	rows, err := pool.Query(ctx, `update msg.parked_keys set lease_until = now() + interval '`+lease+`'
		where ctid = any(array(
			select ctid from msg.parked_keys
			where head_due < now() and lease_until < now() and (head_event is null or head_due < now() - $1::interval)
			order by head_due limit $2
			for update skip locked))
		returning consumer, key`, grace, limit)
	if err != nil {
		return nil, fmt.Errorf("find stopped keys: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Key, error) {
		var k Key
		var key []byte
		err := row.Scan(&k.Consumer, &key)
		k.Bytes = string(key)
		return k, err
	})
}
