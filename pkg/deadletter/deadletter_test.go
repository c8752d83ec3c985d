package deadletter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tiffin-platform/tiffin/pkg/deadletter"
	"github.com/tiffin-platform/tiffin/pkg/outbox"
	"github.com/tiffin-platform/tiffin/pkg/pgtest"
)

const group = "kitchen"

type rig struct {
	*deadletter.Store
	t  *testing.T
	db *outbox.DB
}

func setup(t *testing.T) rig {
	t.Parallel()
	db := outbox.NewDB(pgtest.New(t, nil), nil)
	return rig{deadletter.NewStore(db, group), t, db}
}

// letter returns the nth test letter; even ones are permanent.
func letter(n int) deadletter.Letter {
	l := deadletter.Letter{
		Consumer: 3, EventID: uuid.New(), Type: "order.created", Topic: "order.created", Partition: 1, Offset: int64(n),
		Key: fmt.Append(nil, "key ", n), Value: []byte(`{"n":1}`), ErrorClass: "transient", Error: "no luck", Attempts: 4,
		Headers:       []kgo.RecordHeader{{Key: "ce_type", Value: []byte("order.created")}, {Key: "x-redrive-count", Value: []byte("0")}, {Key: "raw", Value: []byte{0xff}}},
		FirstFailedAt: time.Now().Add(-time.Minute),
	}
	if n%2 == 0 {
		l.ErrorClass, l.Value = "permanent", []byte{0xff, 0}
	}
	l.ID = deadletter.IDFor(l.Consumer, l.EventID)
	return l
}

func (r rig) add(letters ...deadletter.Letter) {
	r.t.Helper()
	require.NoError(r.t, r.db.InTx(r.t.Context(), func(tx *outbox.Tx) error {
		for _, l := range letters {
			deadletter.Add(tx, l)
		}
		return nil
	}))
}

func (r rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	require.NoError(r.t, r.db.Pool.QueryRow(context.Background(), sql, args...).Scan(&n))
	return n
}

func (r rig) some(n int) []deadletter.Letter {
	letters := make([]deadletter.Letter, n)
	for i := range letters {
		letters[i] = letter(i)
	}
	r.add(letters...)
	return letters
}

func TestRedriveSendsOnce(t *testing.T) {
	r := setup(t)
	l := r.some(1)[0]
	by := deadletter.Command{Actor: "ada", Reason: "fixed it"}
	n, err := r.Redrive(t.Context(), by)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = r.Redrive(t.Context(), by)
	require.NoError(t, err)
	require.Zero(t, n, "it is on its way")
	n, err = r.Discard(t.Context(), by)
	require.NoError(t, err)
	require.Zero(t, n)

	var topic string
	var key, value, raw []byte
	require.NoError(t, r.db.Pool.QueryRow(t.Context(), `select topic, key, value, headers from msg.outbox`).Scan(&topic, &key, &value, &raw))
	require.Equal(t, "kitchen.retry.1", topic)
	require.Equal(t, l.Key, key)
	require.Equal(t, l.Value, value)
	headers, err := outbox.DecodeHeaders(raw)
	require.NoError(t, err)
	got := map[string]string{}
	for _, h := range headers {
		got[h.Key] = string(h.Value)
	}
	require.Len(t, got, len(headers), "no header twice")
	require.Equal(t, "1", got["x-redrive-count"])
	require.Equal(t, "1", got["x-retry-count"])
	require.Equal(t, "\xff", got["raw"])

	shown, history, err := r.Show(t.Context(), l.ID)
	require.NoError(t, err)
	require.Equal(t, deadletter.Redriven, shown.Status)
	require.Equal(t, 1, shown.Redrives)
	require.Len(t, history, 1)
	require.Equal(t, "ada", history[0].Actor)
	require.Equal(t, "fixed it", history[0].Reason)
	require.Equal(t, deadletter.Dead, history[0].Was)
	require.Equal(t, deadletter.Redriven, history[0].Became)

	// It dies again: the same letter, with all its tries.
	l.Redrives, l.Attempts = 1, 3
	r.add(l)
	shown, _, err = r.Show(t.Context(), l.ID)
	require.NoError(t, err)
	require.Equal(t, deadletter.Dead, shown.Status)
	require.Equal(t, 7, shown.Attempts)
}

func TestTwoOperatorsRedriveEachLetterOnce(t *testing.T) {
	r := setup(t)
	r.some(500)
	var wg sync.WaitGroup
	total := make([]int, 3)
	for i := range total {
		wg.Go(func() {
			n, err := r.Redrive(t.Context(), deadletter.Command{Actor: fmt.Sprint(i)})
			if err == nil {
				total[i] = n
			}
		})
	}
	wg.Wait()
	_, err := r.Redrive(t.Context(), deadletter.Command{Actor: "last"}) // what was locked when the others looked
	require.NoError(t, err)
	require.Equal(t, 500, r.count(`select count(*) from msg.outbox`))
	require.Equal(t, 500, r.count(`select count(distinct event_id) from msg.outbox`))
	require.Equal(t, 500, r.count(`select count(*) from msg.dead_letter_changes`))
	require.Equal(t, 500, r.count(`select sum(changed) from msg.dead_letter_operations where ended is not null`))
}

func TestFilters(t *testing.T) {
	r := setup(t)
	letters := r.some(10)
	_, err := r.db.Pool.Exec(t.Context(), `update msg.dead_letters set dead_at = now() - interval '2 hours' where "offset" < 3`)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		f    deadletter.Filter
		want int
	}{
		"all":      {deadletter.Filter{}, 10},
		"class":    {deadletter.Filter{Class: "permanent"}, 5},
		"key":      {deadletter.Filter{Key: "key 4"}, 1},
		"type":     {deadletter.Filter{Type: "order.created"}, 10},
		"no type":  {deadletter.Filter{Type: "x"}, 0},
		"ids":      {deadletter.Filter{IDs: []uuid.UUID{letters[1].ID, letters[2].ID, uuid.New()}}, 2},
		"limit":    {deadletter.Filter{Limit: 4}, 4},
		"older":    {deadletter.Filter{Older: deadletter.Age(time.Hour)}, 3},
		"newer":    {deadletter.Filter{Newer: deadletter.Age(time.Hour)}, 7},
		"consumer": {deadletter.Filter{Consumer: 4}, 0},
		"both":     {deadletter.Filter{Class: "permanent", Older: deadletter.Age(time.Hour)}, 2},
		"status":   {deadletter.Filter{Status: deadletter.Discarded}, 0},
	} {
		got, err := r.List(t.Context(), test.f)
		require.NoError(t, err, name)
		require.Len(t, got, test.want, name)
		if test.f.Status == "" {
			n, err := r.Redrive(t.Context(), deadletter.Command{Filter: test.f, DryRun: true})
			require.NoError(t, err, name)
			require.Equal(t, test.want, n, name)
		}
	}
	_, err = r.List(t.Context(), deadletter.Filter{Status: "odd"})
	require.Error(t, err)
	require.Zero(t, r.count(`select count(*) from msg.outbox`), "a dry run changes nothing")

	n, err := r.Discard(t.Context(), deadletter.Command{Actor: "ada", Filter: deadletter.Filter{Class: "permanent", Limit: 2}})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	open, oldest, err := deadletter.Open(t.Context(), r.db.Pool)
	require.NoError(t, err)
	require.EqualValues(t, 8, open)
	require.Greater(t, oldest, time.Hour)
}

// However many letters there are, each chunk of a command reads its own.
func TestNoStatementReadsOrSortsAllLetters(t *testing.T) {
	r := setup(t)
	_, err := r.db.Pool.Exec(t.Context(), `insert into msg.dead_letters
			(id, consumer, event_id, type, topic, partition, "offset", headers, error_class, error, attempts, first_failed_at, status, dead_at)
		select gen_random_uuid(), 1, gen_random_uuid(), 't', 't', 0, n, '', 'transient', 'e', 4, now(),
			case when n % 2 = 0 then 'dead' else 'discarded' end, now() - n * interval '1 s'
		from generate_series(1, 20000) n`)
	require.NoError(t, err)
	plans := pgtest.Watch(t, r.db.Pool)
	store, ctx := deadletter.NewStore(outbox.NewDB(plans.Pool, nil), group), t.Context()
	l := letter(1)
	require.NoError(t, outbox.NewDB(plans.Pool, nil).InTx(ctx, func(tx *outbox.Tx) error {
		deadletter.Add(tx, l)
		deadletter.Resolve(tx, 1, uuid.New())
		return nil
	}))
	for _, f := range []deadletter.Filter{
		{Limit: 100}, {Consumer: 1, Limit: 100}, {Class: "transient", Limit: 100}, {IDs: []uuid.UUID{l.ID}, Limit: 1}, {Older: deadletter.Age(time.Hour), Limit: 100},
	} {
		_, err = store.Redrive(ctx, deadletter.Command{Actor: "ada", Filter: f})
		require.NoError(t, err)
		f.Status = deadletter.Dead
		_, err = store.List(ctx, f)
		require.NoError(t, err)
	}
	_, _, err = store.Show(ctx, l.ID)
	require.NoError(t, err)
	require.Greater(t, plans.Require(t), 15)
}

func TestRateAndProgress(t *testing.T) {
	r := setup(t)
	r.some(9)
	var seen []int
	started := time.Now()
	n, err := r.Redrive(t.Context(), deadletter.Command{Actor: "ada", Rate: 40, Filter: deadletter.Filter{Limit: 9},
		Progress: func(done int) { seen = append(seen, done) }})
	require.NoError(t, err)
	require.Equal(t, 9, n)
	require.Equal(t, []int{9}, seen)
	require.Less(t, time.Since(started), 5*time.Second)
	_, err = r.Redrive(t.Context(), deadletter.Command{})
	require.Error(t, err, "somebody has to have done it")
}

func TestTextThatPostgresCannotStore(t *testing.T) {
	r := setup(t)
	l := letter(1)
	l.Type, l.Error = "a\x00b\xff"+strings.Repeat("é", 300), strings.Repeat("\x00", 20_000)
	r.add(l)
	got, _, err := r.Show(t.Context(), l.ID)
	require.NoError(t, err)
	require.Contains(t, got.Type, "a\uFFFDb\uFFFD")
	_, _, err = r.Show(t.Context(), uuid.New())
	require.ErrorIs(t, err, deadletter.ErrNotFound)
}

func TestDerivedIDs(t *testing.T) {
	t.Parallel()
	at := time.Now()
	id := deadletter.DeriveID("a", 1, 2, at)
	require.Equal(t, id, deadletter.DeriveID("a", 1, 2, at))
	require.EqualValues(t, 8, id.Version())
	for _, other := range []uuid.UUID{deadletter.DeriveID("a", 1, 3, at), deadletter.DeriveID("a", 2, 2, at), deadletter.DeriveID("b", 1, 2, at)} {
		require.NotEqual(t, id, other)
	}
}

func TestSubCommand(t *testing.T) {
	r := setup(t)
	letters := r.some(3)
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := deadletter.SubCommand(group, "").Run(t.Context(), args, func(name string) string {
			return map[string]string{"USER": "ada", "DATABASE_URL": r.db.Pool.Config().ConnString()}[name]
		}, &out)
		return out.String(), err
	}
	ok := func(args ...string) string {
		out, err := run(args...)
		require.NoError(t, err, "%v", args)
		return out
	}
	require.Contains(t, ok("list"), "3 dead letters\n")
	require.Contains(t, ok("list", "-h"), "only this event type")
	require.Len(t, strings.Split(strings.TrimSpace(ok("list", "-json", "-class", "permanent")), "\n"), 2)
	require.Contains(t, ok("show", letters[1].ID.String()), `"value": "{\"n\":1}"`)
	require.Contains(t, ok("show", letters[0].ID.String()), `"value_base64": "/wA="`)
	require.Equal(t, "3 dead letters would be redriven\n", ok("redrive", "-all", "-dry-run"))
	require.Equal(t, "1 of 1\n1 dead letters redriven\n", ok("redrive", "-reason", "test", letters[1].ID.String()))
	require.Contains(t, ok("discard", "-key", "key 0"), "1 dead letters discarded\n")
	require.Contains(t, ok("list"), "1 dead letters\n")
	require.Contains(t, ok("list", "-status", "any"), "3 dead letters\n")
	require.Len(t, strings.Split(strings.TrimSpace(ok("export", "-status", "any")), "\n"), 3)
	require.Equal(t, 1, r.count(`select changed from msg.dead_letter_operations where action = 'redrive' and actor = 'ada' and reason = 'test'`))
	for _, bad := range [][]string{{}, {"eat"}, {"redrive"}, {"discard", "x"}, {"show"}, {"show", uuid.NewString()}, {"list", "-limit", "x"}, {"list", "-status", "odd"}} {
		_, err := run(bad...)
		require.Error(t, err, "%v", bad)
	}
}

func TestAdminRoutes(t *testing.T) {
	r := setup(t)
	letters := r.some(3)
	srv := httptest.NewServer(http.StripPrefix("/dlq", r.Routes()))
	t.Cleanup(srv.Close)
	do := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/dlq"+path, strings.NewReader(body))
		require.NoError(t, err)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, strings.TrimSpace(string(b))
	}
	for _, test := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/?error_class=permanent&limit=1", "", 200, `"status":"dead"`},
		{"GET", "/?limit=x", "", 400, "limit"},
		{"GET", "/?older_than=soon", "", 400, "soon"},
		{"GET", "/" + letters[0].ID.String(), "", 200, `"history":[]`},
		{"GET", "/" + uuid.NewString(), "", 404, "no such dead letter"},
		{"GET", "/export", "", 400, "actor"},
		{"POST", "/redrive", `{"actor":"ada"}`, 422, "/all"},
		{"POST", "/redrive", `{"all":true}`, 422, "/actor"},
		{"POST", "/redrive", `{"all":true,"actor":"ada","older_than":"x"}`, 400, "older_than"},
		{"POST", "/redrive", `{"all":true,"actor":"ada","dry_run":true}`, 200, `{"count":3,"dry_run":true}`},
		{"POST", "/redrive", `{"ids":["` + letters[1].ID.String() + `"],"actor":"ada"}`, 200, `{"count":1,"dry_run":false}`},
		{"POST", "/discard", `{"error_class":"permanent","newer_than":"1h","actor":"ada"}`, 200, `{"count":2,"dry_run":false}`},
		{"GET", "/?status=dead", "", 200, `{"items":[]}`},
	} {
		status, body := do(test.method, test.path, test.body)
		require.Equal(t, test.status, status, "%s %s: %s", test.method, test.path, body)
		require.Contains(t, body, test.want, "%s %s", test.method, test.path)
	}
	_, body := do("GET", "/export?actor=ada", "")
	lines := strings.Split(body, "\n")
	require.Len(t, lines, 3)
	for _, line := range lines {
		var v deadletter.View
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		require.Equal(t, letters[v.Offset].ID, v.ID)
		if v.Offset == 0 {
			require.Equal(t, []byte{0xff, 0}, v.ValueBytes)
		}
	}
}
