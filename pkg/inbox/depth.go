package inbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Hot is the key with the most events behind it.
type Hot struct {
	Key    Key
	Events int64
}

// Depth counts the parked keys and the events at or behind their heads.
func Depth(ctx context.Context, pool *pgxpool.Pool) (keys, events int64, hottest Hot, err error) {
	rows, err := pool.Query(ctx, `select k.consumer, k.key, count(e.seq), count(*) over (), sum(count(e.seq)) over ()
		from msg.parked_keys k left join msg.parked_events e on e.consumer = k.consumer and e.key = k.key
		group by k.consumer, k.key order by 3 desc limit 1`)
	if err != nil {
		return 0, 0, hottest, fmt.Errorf("count parked events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var key []byte
		if err := rows.Scan(&hottest.Key.Consumer, &key, &hottest.Events, &keys, &events); err != nil {
			return 0, 0, hottest, fmt.Errorf("count parked events: %w", err)
		}
		hottest.Key.Bytes = string(key)
	}
	return keys, events, hottest, rows.Err()
}
