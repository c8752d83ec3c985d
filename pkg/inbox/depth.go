package inbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Depth is how much waits.
type Depth struct {
	Keys   int64
	Events int64         // at or behind the heads of all keys
	Hot    map[Key]int64 // keys with at least as many events as were asked for
}

// Measure counts the parked keys and the events at or behind their heads.
func Measure(ctx context.Context, pool *pgxpool.Pool, hot int) (Depth, error) {
	d := Depth{Hot: map[Key]int64{}}
	rows, err := pool.Query(ctx, `with depth as (
			select k.consumer, k.key, count(e.seq) as events
			from msg.parked_keys k left join msg.parked_events e on e.consumer = k.consumer and e.key = k.key
			group by k.consumer, k.key)
		select null::smallint, null::bytea, sum(events)::bigint, count(*) from depth
		union all
		(select consumer, key, events, 0 from depth where events >= $1 order by events desc limit 1000)`, hot)
	if err != nil {
		return d, fmt.Errorf("count parked events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var consumer *int16
		var key []byte
		var events *int64
		var keys int64
		if err := rows.Scan(&consumer, &key, &events, &keys); err != nil {
			return d, fmt.Errorf("count parked events: %w", err)
		}
		switch {
		case consumer != nil:
			d.Hot[Key{*consumer, string(key)}] = *events
		case events != nil:
			d.Keys, d.Events = keys, *events
		}
	}
	return d, rows.Err()
}
