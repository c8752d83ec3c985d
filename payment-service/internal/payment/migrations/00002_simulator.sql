-- +goose Up

-- The simulated provider's books. Only package simulator writes here, on its own
-- connections, and commits before it answers, as a provider on another machine
-- would: what it did stays done when the caller is killed. Empty with another
-- provider.
create schema simulator;

create table simulator.intents (
    ref        text        primary key,
    key        text        not null unique, -- the order's id
    amount     bigint      not null,
    currency   text        not null,
    method     text        not null,
    status     text        not null check (status in ('created', 'charged', 'declined', 'voided', 'refunded')),
    confirms   integer     not null default 0,
    created_at timestamptz not null default clock_timestamp()
);

-- The ledger: appended to, never changed. Nothing here prevents a second charge
-- of an intent, on purpose: tests count the rows.
create table simulator.charges (
    id       bigint      generated always as identity primary key,
    ref      text        not null references simulator.intents,
    key      text        not null,
    amount   bigint      not null,
    currency text        not null,
    at       timestamptz not null default clock_timestamp()
);
create index charges_by_key on simulator.charges (key);

create table simulator.voids (
    id       bigint      generated always as identity primary key,
    ref      text        not null references simulator.intents,
    key      text        not null,
    kind     text        not null check (kind in ('cancel', 'refund')),
    amount   bigint      not null, -- what went back: 0 for a cancel
    currency text        not null,
    at       timestamptz not null default clock_timestamp()
);
create index voids_by_key on simulator.voids (key);

create table simulator.calls (
    id        bigint      generated always as identity primary key,
    operation text        not null check (operation in ('create', 'confirm', 'void')),
    ref       text        not null,
    key       text        not null,
    result    text        not null, -- a result, or the error that the caller got
    at        timestamptz not null default clock_timestamp()
);
create index calls_by_key on simulator.calls (key);

-- +goose Down
drop schema simulator cascade;
