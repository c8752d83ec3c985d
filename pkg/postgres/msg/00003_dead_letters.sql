-- +goose Up

-- Every record that a consumer gave up on, with its original bytes.
create table msg.dead_letters (
    id              uuid        primary key,
    consumer        smallint    not null,
    event_id        uuid        not null,
    type            text        not null,
    topic           text        not null, -- where the record was first read, with its partition and offset
    partition       integer     not null,
    "offset"        bigint      not null,
    key             bytea,
    value           bytea,
    headers         bytea       not null,
    error_class     text        not null,
    error           text        not null,
    attempts        smallint    not null,
    redrives        smallint    not null default 0,
    status          text        not null default 'dead' check (status in ('dead', 'redriven', 'resolved', 'discarded')),
    first_failed_at timestamptz not null,
    dead_at         timestamptz not null default now(),
    updated_at      timestamptz not null default now()
);
create index dead_letters_list on msg.dead_letters (consumer, status, dead_at);
create index dead_letters_event on msg.dead_letters (event_id);

-- Who did what to dead letters: one row per command, one per letter it changed.
-- Both are written in the transaction that changes the letters, and kept.
create table msg.dead_letter_operations (
    id      uuid        primary key,
    action  text        not null check (action in ('redrive', 'discard', 'export')),
    actor   text        not null,
    reason  text        not null default '',
    filter  jsonb       not null,
    changed bigint      not null default 0,
    at      timestamptz not null default now(),
    ended   timestamptz
);
create index dead_letter_operations_at on msg.dead_letter_operations (at);

create table msg.dead_letter_changes (
    operation   uuid        not null references msg.dead_letter_operations,
    dead_letter uuid        not null, -- no foreign key: the log outlives the letter
    was         text        not null,
    became      text        not null,
    at          timestamptz not null default now(),
    primary key (operation, dead_letter)
);
create index dead_letter_changes_letter on msg.dead_letter_changes (dead_letter, at);

-- +goose Down
drop table msg.dead_letter_changes;
drop table msg.dead_letter_operations;
drop table msg.dead_letters;
