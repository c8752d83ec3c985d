package outbox

import (
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"
)

// EncodeEvent returns an event's headers as a row holds them.
var EncodeEvent = encodeEvent

// At sets what a relay runs at the points where a crash matters.
func (r *Relay) At(f func(point string)) { r.at = f }

// Reads counts how often a relay reads.
func Reads(r *Relay) *atomic.Int64 {
	var reads atomic.Int64
	step := r.step
	r.step = func(c cursor, seqs []int64, xmin int64, cut bool, limit int) (cursor, int) {
		reads.Add(1)
		return step(c, seqs, xmin, cut, limit)
	}
	return &reads
}

// ReadSQL and the other statements, for tests of their plans.
const (
	ReadSQL    = sqlRead
	PruneSQL   = sqlPrune
	BacklogSQL = sqlBacklog

	InsertOneSQL  = insertOne
	InsertManySQL = insertMany
)

// ConnConfig is how a relay connects.
func ConnConfig(r *Relay) *pgx.ConnConfig { return r.cc.Copy() }

// Trace sets where a relay's spans go.
func (r *Relay) Trace(p trace.TracerProvider) { r.tracer = p.Tracer("outbox") }

// Unbroken changes nothing: the relay as it is.
func Unbroken(*Relay) {}

// Naive makes a relay believe that what it does not see below a visible row
// does not exist.
func Naive(r *Relay) {
	r.step = func(c cursor, seqs []int64, xmin int64, cut bool, limit int) (cursor, int) {
		c, n := c.advance(seqs, xmin, cut, limit)
		c.gaps = nil
		return c, n
	}
}

const ownXid = `pg_current_xact_id()::text::bigint`

// BoundByXmax takes the end of the snapshot that saw a hole for its bound.
func BoundByXmax(r *Relay) {
	// Both ends of the snapshot in one number: ids are small in tests.
	r.sql.read = strings.Replace(sqlRead, `pg_snapshot_xmin(pg_current_snapshot())::text::bigint`,
		`(pg_snapshot_xmax(pg_current_snapshot())::text::bigint << 32) + pg_snapshot_xmin(pg_current_snapshot())::text::bigint`, 1)
	r.step = func(c cursor, seqs []int64, both int64, cut bool, limit int) (cursor, int) {
		c, n := c.advance(seqs, both&(1<<32-1), cut, limit)
		c.bind(c.pos, both>>32)
		return c, n
	}
}

// BoundLater stores gaps first and their bound with the next cursor, and takes
// a gap without one for a rolled-back transaction.
func BoundLater(r *Relay) {
	r.sql.advance = strings.Replace(sqlAdvance, `array_replace($4::bigint[], 0, `+ownXid+`)`, `$4::bigint[]`, 1)
	r.sql.acquire = strings.Replace(sqlAcquire, ownXid, `1`, 1)
}
