-- +goose Up

-- A notification has its number from the start, given under the user's lock:
-- no row is written twice, and no reader writes.
with numbered as (
    select id, row_number() over (partition by user_id order by id) +
        (select coalesce(max(seq), 0) from notifications m where m.user_id = n.user_id) as seq
    from notifications n where seq is null
)
update notifications n set seq = f.seq from numbered f where n.id = f.id;

alter table notifications alter column seq set not null;
drop index notifications_unnumbered;
drop index notifications_seq;
drop index notifications_unread;
create unique index notifications_seq on notifications (user_id, seq);
create index notifications_unread on notifications (user_id, seq) where read_at is null;

-- +goose Down
drop index notifications_unread;
drop index notifications_seq;
create unique index notifications_seq on notifications (user_id, seq) where seq is not null;
create index notifications_unread on notifications (user_id, seq) where seq is not null and read_at is null;
create index notifications_unnumbered on notifications (user_id, id) where seq is null;
alter table notifications alter column seq drop not null;
