package inbox

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tiffin-platform/tiffin/pkg/outbox"
)

// Claim is one attempt of one consumer at one event. Attempt 0 is the record of
// the main topic; retry n of redrive r is n + 16*r.
type Claim struct {
	Consumer int16
	Attempt  int16
	Event    uuid.UUID
}

// Key is a record's key as one consumer sees it. Bytes is the key itself, or a
// digest of a key that is too long for an index; see ParkingKey.
type Key struct {
	Consumer int16
	Bytes    string
}

// Parked is the state of a key that waits.
type Parked struct {
	Head    uuid.UUID // the event that waits for its retry; uuid.Nil: followers are being handled
	Attempt int16     // of the head, due
}

// State is what Begin found out.
type State struct {
	Won    map[Claim]struct{} // the claims that are this transaction's
	Parked map[Key]Parked     // the parked ones among the keys, locked until the end
}

const (
	insertClaims = `insert into msg.processed_events (consumer, event_id, attempt)
		select * from unnest($1::smallint[], $2::uuid[], $3::smallint[])
		on conflict do nothing
		returning consumer, event_id, attempt`
	// Every transaction locks in this order, so that none of them deadlock here.
	lockKeys = `select k.consumer, k.key, k.head_event, k.head_attempt
		from msg.parked_keys k
		join unnest($1::smallint[], $2::bytea[]) as u (consumer, key) on k.consumer = u.consumer and k.key = u.key
		order by k.consumer, k.key
		for update of k`
	selectClaims = `select p.consumer, p.event_id, p.attempt
		from msg.processed_events p
		join unnest($1::smallint[], $2::uuid[], $3::smallint[]) as u (consumer, event_id, attempt)
			on p.consumer = u.consumer and p.event_id = u.event_id and p.attempt = u.attempt`
	selectKeys = `select k.consumer, k.key, k.head_event, k.head_attempt
		from msg.parked_keys k
		join unnest($1::smallint[], $2::bytea[]) as u (consumer, key) on k.consumer = u.consumer and k.key = u.key`
)

// Begin starts a transaction that claims the claims and locks the keys, in one
// round trip. It waits for other transactions that claim or lock the same.
func Begin(ctx context.Context, db *outbox.DB, claims []Claim, keys []Key) (*outbox.Session, State, error) {
	s, state := Start(db, claims, keys)
	if err := s.Flush(ctx); err != nil {
		s.Rollback()
		return nil, State{}, fmt.Errorf("claim %d events: %w", len(claims), err)
	}
	return s, state, nil
}

// Start is Begin without a round trip of its own: State is empty until the
// transaction's first statement, or Flush, has returned.
func Start(db *outbox.DB, claims []Claim, keys []Key) (*outbox.Session, State) {
	var b pgx.Batch
	state := State{Won: make(map[Claim]struct{}, len(claims)), Parked: map[Key]Parked{}}
	if len(claims) > 0 {
		queueClaims(&b, insertClaims, claims, state.Won)
	}
	if len(keys) > 0 {
		queueKeys(&b, lockKeys, keys, state.Parked)
	}
	return db.Start(&b), state
}

// Look returns which claims are taken and which keys are parked, locking
// nothing: both may change at any time.
func Look(ctx context.Context, pool *pgxpool.Pool, claims []Claim, keys []Key) (taken map[Claim]struct{}, parked map[Key]Parked, err error) {
	var b pgx.Batch
	taken, parked = map[Claim]struct{}{}, map[Key]Parked{}
	queueClaims(&b, selectClaims, claims, taken)
	queueKeys(&b, selectKeys, keys, parked)
	if err := pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, nil, fmt.Errorf("look up %d events: %w", len(claims), err)
	}
	return taken, parked, nil
}

func queueClaims(b *pgx.Batch, sql string, claims []Claim, found map[Claim]struct{}) {
	consumers, attempts, ids := make([]int16, len(claims)), make([]int16, len(claims)), make([][16]byte, len(claims))
	for i, c := range claims {
		consumers[i], attempts[i], ids[i] = c.Consumer, c.Attempt, c.Event
	}
	b.Queue(sql, consumers, ids, attempts).Query(func(rows pgx.Rows) error {
		var c Claim
		var id [16]byte
		_, err := pgx.ForEachRow(rows, []any{&c.Consumer, &id, &c.Attempt}, func() error {
			c.Event = id
			found[c] = struct{}{}
			return nil
		})
		return err
	})
}

func queueKeys(b *pgx.Batch, sql string, keys []Key, found map[Key]Parked) {
	consumers, bytes := make([]int16, len(keys)), make([][]byte, len(keys))
	for i, k := range keys {
		consumers[i], bytes[i] = k.Consumer, []byte(k.Bytes)
	}
	b.Queue(sql, consumers, bytes).Query(func(rows pgx.Rows) error {
		var k Key
		var key []byte
		var head *[16]byte
		var attempt int16
		_, err := pgx.ForEachRow(rows, []any{&k.Consumer, &key, &head, &attempt}, func() error {
			k.Bytes = string(key)
			p := Parked{Attempt: attempt}
			if head != nil {
				p.Head = *head
			}
			found[k] = p
			return nil
		})
		return err
	})
}
