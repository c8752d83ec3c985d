package outbox

import (
	"context"
	"sync/atomic"
	"time"
)

// Deletes the rows of one stretch that are published and old, if the caller
// still leads. The stretch starts where the last delete ended, so that the scan
// does not wade through index entries of rows deleted before.
const sqlPrune = `
	with stretch as (
		select max(seq) as hi, count(*) as n from (
			select seq from msg.outbox where seq > $2 and seq <= $3 order by seq limit $4
		) s
	), gone as (
		delete from msg.outbox
		where seq > $2 and seq <= (select hi from stretch)
		  and created_at < clock_timestamp() - $5::interval
		  and exists (select from msg.outbox_cursor where epoch = $1)
		returning seq
	)
	select coalesce((select hi from stretch), 0), (select n from stretch), (select count(*) from gone)`

// pruneChunk keeps each delete short: locks, WAL and the bloat it leaves come
// in small portions.
const pruneChunk = 5000

// prune deletes old rows below published until ctx ends. Its errors wait for
// the next round: nothing depends on it soon.
func (r *Relay) prune(ctx context.Context, epoch int64, published *atomic.Int64) {
	if r.cfg.Retention < 0 {
		return
	}
	var low int64
	for {
		for ctx.Err() == nil {
			var hi, seen, gone int64
			err := r.db.Pool.QueryRow(ctx, sqlPrune, epoch, low, published.Load(), pruneChunk, r.cfg.Retention).Scan(&hi, &seen, &gone)
			if err != nil {
				if ctx.Err() == nil {
					r.log.WarnContext(ctx, "outbox not pruned", "error", err.Error())
				}
				break
			}
			r.m.pruned.Add(float64(gone))
			if gone < seen {
				break // what is left is too young
			}
			low = max(low, hi)
			if seen < pruneChunk {
				break
			}
			pause(ctx, 10*time.Millisecond)
		}
		pause(ctx, r.cfg.Prune)
		if ctx.Err() != nil {
			return
		}
	}
}
