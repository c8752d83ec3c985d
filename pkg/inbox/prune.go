package inbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Prune forgets at most limit claims of consumer that are older than retention,
// and reports how many. A claim is old when both its event and the claim itself
// are: a letter redriven after a month was claimed today. The event's age is
// told by now, the caller's clock, and the claim's by the database's: one of
// them that is wrong forgets nothing.
func Prune(ctx context.Context, pool *pgxpool.Pool, consumer int16, now time.Time, retention time.Duration, limit int) (int64, error) {
	tag, err := pool.Exec(ctx, sqlPrune, consumer, [16]byte(firstID(now.Add(-retention))), [16]byte(firstID(now.Add(24*time.Hour))), retention, limit)
	if err != nil {
		return 0, fmt.Errorf("prune processed events: %w", err)
	}
	return tag.RowsAffected(), nil
}

// Claims are never updated, so their places stand for them. The first range is
// where the old ones are. The second holds ids of other producers that carry no
// time, or one from the future; it is small.
const sqlPrune = `delete from msg.processed_events where ctid = any(array(
		(select ctid from msg.processed_events
			where consumer = $1 and event_id < $2 and at < now() - $4::interval order by event_id limit $5)
		union all
		(select ctid from msg.processed_events
			where consumer = $1 and event_id > $3 and at < now() - $4::interval order by event_id limit $5)))`

// firstID returns the lowest id with a time of t.
func firstID(t time.Time) uuid.UUID {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(max(0, t.UnixMilli()))<<16)
	var id uuid.UUID
	copy(id[:], b[:6])
	return id
}

// TimeOf returns the time in a UUIDv7, or false for any other id.
func TimeOf(id uuid.UUID) (time.Time, bool) {
	if id.Version() != 7 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)), true
}
