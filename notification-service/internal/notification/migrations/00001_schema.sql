-- +goose Up

-- Who notifications go to. A row without an address belongs to a user whose
-- user.registered has not been read yet: topics are not ordered among each
-- other, so an order's events may come first.
create table contacts (
    user_id    uuid primary key,
    email      text check (email <> ''),
    name       text not null default '',
    last_seq   bigint not null default 0, -- the highest number given to a notification of this user
    created_at timestamptz not null default now()
);

-- seq orders a user's notifications for streams and cursors. It is null until
-- somebody looks: numbers are given under the lock of the contact's row to what
-- is committed by then, so a number never appears below one that was seen.
create table notifications (
    id         uuid primary key,
    user_id    uuid not null references contacts,
    seq        bigint check (seq > 0),
    kind       text not null check (kind in ('welcome', 'order_placed', 'payment_completed', 'payment_failed',
                   'order_confirmed', 'order_preparing', 'order_out_for_delivery', 'order_delivered',
                   'order_cancelled', 'payment_refunded')),
    event_id   uuid not null,
    order_id   uuid,
    title      text not null,
    body       text not null,
    created_at timestamptz not null,
    read_at    timestamptz,
    constraint notifications_source unique (user_id, event_id, kind)
);

-- Partial on purpose: a plain unique index would make seq a key column, and
-- giving numbers would then wait for the foreign key checks of deliveries.
create unique index notifications_seq on notifications (user_id, seq) where seq is not null;
create index notifications_unread on notifications (user_id, seq) where seq is not null and read_at is null;
create index notifications_unnumbered on notifications (user_id) where seq is null;
create index notifications_order on notifications (order_id) where order_id is not null;

-- What became of handing a notification to the channel. Apart from
-- notifications, so that recording a delivery and giving numbers never lock the
-- same rows in different orders. No row: not tried to the end yet.
create table deliveries (
    notification_id uuid primary key references notifications,
    user_id         uuid not null,
    status          text not null check (status in ('waiting', 'delivered')), -- waiting: for the contact's address
    channel         text not null,
    at              timestamptz not null
);

create index deliveries_waiting on deliveries (user_id) where status = 'waiting';

-- +goose Down
drop table deliveries;
drop table notifications;
drop table contacts;
