-- +goose Up

create table restaurants (
    id         uuid        primary key,
    name       text        not null,
    cuisine    text        not null,
    address    text        not null,
    open       boolean     not null,
    currency   text        not null check (currency ~ '^[A-Z]{3}$'),
    created_at timestamptz not null,
    updated_at timestamptz not null
);
create index restaurants_by_name on restaurants (name, id);

-- What can be ordered now. Orders keep their own copy of what they contain, so
-- a menu is replaced by deleting and inserting rows.
create table menu_items (
    id            uuid    primary key,
    restaurant_id uuid    not null references restaurants,
    position      integer not null, -- in the menu as the admin wrote it
    name          text    not null,
    description   text    not null,
    price         bigint  not null check (price > 0), -- minor units of the restaurant's currency
    available     boolean not null
);
create index menu_items_by_restaurant on menu_items (restaurant_id, position);

create table orders (
    id               uuid        primary key, -- UUIDv7: newest first is id desc
    customer_id      uuid        not null,
    restaurant_id    uuid        not null,
    restaurant_name  text        not null,
    status           text        not null check (status in ('pending', 'confirmed', 'preparing', 'out_for_delivery', 'delivered', 'cancelled')),
    -- A copy of names and prices as they were ordered: written once, always read
    -- whole, never searched, hence no table of its own.
    items            jsonb       not null,
    total            bigint      not null check (total > 0),
    currency         text        not null,
    delivery_address jsonb       not null,
    payment_method   text        not null,
    notes            text        not null,
    cancel_reason    text        not null default '',
    cancel_code      text        not null default '',
    payment_deadline timestamptz not null,
    created_at       timestamptz not null,
    updated_at       timestamptz not null,
    check ((status = 'cancelled') = (cancel_reason <> ''))
) with (fillfactor = 80); -- an order changes a few times in its life: room for its versions
create index orders_by_customer on orders (customer_id, id desc);
create index orders_by_status on orders (status, id desc);
create index orders_awaiting_payment on orders (payment_deadline) where status = 'pending';

-- What happened to an order, in the order in which it was decided: seq is taken
-- while the order's row is locked.
create table timeline (
    order_id uuid        not null references orders,
    seq      bigint      not null,
    at       timestamptz not null, -- when it happened, by the clock of who decided it
    kind     text        not null, -- the event's type
    detail   jsonb       not null,
    event_id uuid        not null,
    primary key (order_id, seq)
);
-- Of every fact but a change of status an order has one at most. So the database
-- itself holds "cancelled once", and a fact told twice under two event ids shows once.
create unique index timeline_once on timeline (order_id, kind) where kind <> 'order.status_changed';

create table idempotency_keys (
    customer_id  uuid        not null,
    key          text        not null,
    request_hash bytea       not null, -- SHA-256 of what was asked for
    order_id     uuid        not null,
    created_at   timestamptz not null,
    primary key (customer_id, key)
);
create index idempotency_keys_by_age on idempotency_keys (created_at);

-- +goose Down
drop table idempotency_keys;
drop table timeline;
drop table orders;
drop table menu_items;
drop table restaurants;
