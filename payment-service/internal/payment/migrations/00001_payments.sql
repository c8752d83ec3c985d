-- +goose Up

create table payments (
    id               uuid        primary key, -- UUIDv7
    order_id         uuid        not null constraint payments_one_per_order unique,
    customer_id      uuid        not null,
    amount           bigint      not null, -- minor units of the currency
    currency         text        not null,
    method           text        not null,
    provider         text        not null,
    provider_ref     text, -- null until the provider has an intent
    status           text        not null check (status in ('pending', 'completed', 'failed', 'voided', 'refund_pending', 'refunded')),
    cancel_requested boolean     not null default false,
    failure_code     text        not null default '',
    failure_message  text        not null default '',
    refund_asks      integer     not null default 0, -- payment.refund_requested events so far
    refund_due_at    timestamptz,                    -- when the next one follows
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    -- A tombstone, of an order that was cancelled before its payment began, has
    -- no amount.
    check (status = 'voided' and amount = 0 and currency = '' or amount > 0 and currency ~ '^[A-Z]{3}$'),
    check ((status = 'failed') = (failure_code <> '')),
    check (status not in ('completed', 'refund_pending', 'refunded') or provider_ref is not null),
    -- Who owes money, or may owe some, is always asked again.
    check ((refund_due_at is not null) = (status = 'refund_pending' or status = 'pending' and cancel_requested))
) with (fillfactor = 80); -- a payment changes a few times in its life: room for its versions
create index payments_to_release on payments (refund_due_at) where refund_due_at is not null;

-- +goose Down
drop table payments;
