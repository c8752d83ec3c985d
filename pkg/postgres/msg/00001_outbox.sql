-- +goose Up

-- The messaging schema of one service's database. Owned by pkg; a service's own
-- migrations run after these and never touch schema msg.
create schema if not exists msg;

-- Events and retry records on their way to Kafka. Append-only: a row is never
-- updated, and deleted only long after it was published.
create table msg.outbox (
    -- First column on purpose: defaults are computed in column order, so the
    -- transaction has its xid before it takes a seq. The relay's gap bound rests
    -- on that.
    xid        xid8        not null default pg_current_xact_id(),
    -- cache 1 is mandatory: with a larger cache a session hands out numbers it
    -- reserved long ago, behind the relay's back.
    seq        bigint      generated always as identity (cache 1) primary key,
    event_id   uuid        not null,
    topic      text        not null,
    key        bytea,
    value      bytea,
    headers    bytea       not null, -- encoding: pkg/outbox, EncodeHeaders
    created_at timestamptz not null default clock_timestamp()
) with (
    -- Rows go in one chunk of deletes after the other: vacuum early and cheaply
    -- instead of once the table holds a fifth of garbage.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000
);
-- Values are JSON of a few hundred bytes, read once: compressing them costs more
-- than it saves.
alter table msg.outbox alter column value set storage external;

-- What is published, and who publishes: exactly one row. Updated many times per
-- second: the low fillfactor keeps its versions in one page (HOT updates).
create table msg.outbox_cursor (
    id          boolean     primary key default true check (id),
    epoch       bigint      not null default 0,      -- raised by every change of leader; fences the old one
    leader      text        not null default '',
    lease_until timestamptz not null default '-infinity',
    pos         bigint      not null default 0,      -- everything up to here is published, except gaps
    gaps        int8[]      not null default '{}',   -- triples lo, hi, bound: see pkg/outbox
    updated_at  timestamptz not null default now()
) with (fillfactor = 10);
insert into msg.outbox_cursor default values;

-- Records Kafka can never accept. Should stay empty: alert on it.
create table msg.outbox_dead (
    seq      bigint      primary key,
    event_id uuid        not null,
    topic    text        not null,
    key      bytea,
    value    bytea,
    headers  bytea       not null,
    error    text        not null,
    at       timestamptz not null default now()
);

-- +goose Down
drop table msg.outbox_dead;
drop table msg.outbox_cursor;
drop table msg.outbox;
