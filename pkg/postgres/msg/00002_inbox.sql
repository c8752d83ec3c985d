-- +goose Up

-- Which attempt of which event a consumer has recorded the outcome of. Event ids
-- are UUIDv7, so the index grows at its right end and old rows are one range:
-- delete ... where consumer = $1 and event_id < $2.
create table msg.processed_events (
    consumer smallint    not null,
    event_id uuid        not null,
    attempt  smallint    not null,
    at       timestamptz not null default now(),
    primary key (consumer, event_id, attempt)
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1
);

-- Keys whose next event waits for a retry. key is the record's key, or a digest
-- of it when it is too long for an index entry.
create table msg.parked_keys (
    consumer    smallint    not null,
    key         bytea       not null,
    head_event  uuid        not null,
    head_due    timestamptz not null,
    lease_until timestamptz not null default '-infinity', -- saves work only; the fence is the delete of a parked event
    since       timestamptz not null default now(),
    primary key (consumer, key),
    check (octet_length(key) <= 1024)
) with (fillfactor = 50);
create index parked_keys_due on msg.parked_keys (head_due);

-- Events behind a parked key, in the order in which they arrived.
create table msg.parked_events (
    consumer    smallint    not null,
    key         bytea       not null,
    seq         bigint      generated always as identity (cache 1),
    event_id    uuid        not null,
    topic       text        not null,
    partition   integer     not null,
    "offset"    bigint      not null,
    recorded_at timestamptz not null default now(), -- the record's own time
    record_key  bytea,                              -- the record's own key
    headers     bytea       not null,
    value       bytea,
    primary key (consumer, key, seq)
) with (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000
);

-- +goose Down
drop table msg.parked_events;
drop table msg.parked_keys;
drop table msg.processed_events;
