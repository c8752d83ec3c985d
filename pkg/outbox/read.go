package outbox

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// sqlRead is one statement, so one snapshot: the rows that appeared in open
// gaps, the next rows, and the oldest transaction still running. Two snapshots
// would let a commit slip between "not there" and "ended".
//
// Both parts come in order of seq from the primary key's index, the first below
// the second; nothing is sorted.
const sqlRead = `
	with snapshot as materialized (
		select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin
	)
	select s.xmin, r.seq, r.created_at, r.topic, r.key, r.value, r.headers
	from snapshot s left join (
		(select o.seq, o.created_at, o.topic, o.key, o.value, o.headers
		 from unnest($2::bigint[], $3::bigint[]) g(lo, hi)
		 cross join lateral (
			select seq, created_at, topic, key, value, headers from msg.outbox
			where seq between g.lo and g.hi order by seq limit $4
		 ) o
		 limit $4)
		union all
		(select seq, created_at, topic, key, value, headers from msg.outbox
		 where seq > $1 order by seq limit $4)
	) r on true`

// outboxRow is one row, as it goes out.
type outboxRow struct {
	seq                 int64
	created             time.Time
	topic               string
	key, value, headers []byte
}

// page is what one read found.
type page struct {
	xmin int64
	rows []outboxRow // ascending
	cut  bool        // there may be more rows in gaps, or directly after the last
	more bool        // reading again at once is worth it
}

// reader reads pages and keeps what makes that cheap.
type reader struct {
	conn   *pgx.Conn
	sql    string
	limit  int // rows per read: shrinks when they are large
	max    int
	bytes  int
	topics map[string]string
}

// Rows are copied into pieces of memory that double from the one to the other:
// most reads find a few rows, those of a backlog thousands.
const (
	minArena = 4 << 10
	maxArena = 256 << 10
)

func (r *reader) read(ctx context.Context, c cursor) (page, error) {
	lo, hi := c.ranges()
	limit := r.limit
	res, err := r.conn.Query(ctx, r.sql, c.pos, lo, hi, limit)
	if err != nil {
		return page{}, fmt.Errorf("read outbox: %w", err)
	}
	defer res.Close()
	var (
		p       page
		mem     []byte
		size    int
		inGaps  int
		dropped bool
	)
	keep := func(b []byte) []byte {
		if len(b) == 0 {
			return b[:0:0] // nil stays nil
		}
		if len(b) > cap(mem)-len(mem) {
			mem = make([]byte, 0, max(min(2*cap(mem), maxArena), minArena, len(b)))
		}
		mem = append(mem, b...)
		return mem[len(mem)-len(b) : len(mem) : len(mem)]
	}
	for res.Next() {
		v := res.RawValues() // binary: the statement was described
		p.xmin = int64(binary.BigEndian.Uint64(v[0]))
		if v[1] == nil {
			break // no row, only the snapshot
		}
		row := outboxRow{seq: int64(binary.BigEndian.Uint64(v[1]))}
		if row.seq <= c.pos {
			inGaps++
		} else if inGaps == limit {
			dropped = true // a row left in a gap must go before this one
		}
		n := len(v[3]) + len(v[4]) + len(v[5]) + len(v[6])
		if size += n; size > r.bytes && len(p.rows) > 0 {
			dropped = true
		}
		if dropped {
			continue
		}
		row.created = time.UnixMicro(int64(binary.BigEndian.Uint64(v[2])) + epochMicros)
		row.topic = r.topic(v[3])
		row.key, row.value, row.headers = keep(v[4]), keep(v[5]), keep(v[6])
		p.rows = append(p.rows, row)
	}
	res.Close()
	if err := res.Err(); err != nil {
		return page{}, fmt.Errorf("read outbox: %w", err)
	}
	p.cut = dropped || inGaps == limit
	p.more = p.cut || len(p.rows)-inGaps == limit
	switch {
	case dropped:
		r.limit = max(1, len(p.rows))
	case 2*size <= r.bytes:
		r.limit = min(r.max, 2*limit)
	}
	return p, nil
}

// epochMicros is 2000-01-01, where PostgreSQL counts from.
const epochMicros = 946684800 * 1_000_000

// topic makes one string per topic instead of one per row.
func (r *reader) topic(b []byte) string {
	if s, ok := r.topics[string(b)]; ok {
		return s
	}
	if len(r.topics) >= 1000 {
		clear(r.topics)
	}
	s := string(b)
	r.topics[s] = s
	return s
}
