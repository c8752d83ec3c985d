package deadletter

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Open returns how many letters are dead, and the age of the oldest.
func Open(ctx context.Context, pool *pgxpool.Pool) (count int64, oldest time.Duration, err error) {
	var seconds float64
	err = pool.QueryRow(ctx, `select count(*), coalesce(extract(epoch from now() - min(dead_at)), 0)::float8
		from msg.dead_letters where status = 'dead'`).Scan(&count, &seconds)
	if err != nil {
		return 0, 0, fmt.Errorf("count dead letters: %w", err)
	}
	return count, time.Duration(seconds * float64(time.Second)), nil
}
