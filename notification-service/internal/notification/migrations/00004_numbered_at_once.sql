-- +goose Up

-- A notification has its number from the start, given under the user's lock:
-- no row is written twice, and no reader writes. Replicas of the version before
-- may be at work meanwhile: they wait here, and go on by the trigger below.
lock table notifications in access exclusive mode;
with numbered as (
    select id, row_number() over (partition by user_id order by id) +
        (select coalesce(max(seq), 0) from notifications m where m.user_id = n.user_id) as seq
    from notifications n where seq is null
)
update notifications n set seq = f.seq from numbered f where n.id = f.id and n.seq is null;

alter table notifications alter column seq set not null;
drop index notifications_unnumbered;
drop index notifications_seq;
drop index notifications_unread;
create unique index notifications_seq on notifications (user_id, seq);
create index notifications_unread on notifications (user_id, seq) where read_at is null;

-- For replicas of the version before, which insert without a number. To be
-- dropped by a later migration.
-- +goose StatementBegin
create function number_notification() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(('x' || right(replace(new.user_id::text, '-', ''), 16))::bit(64)::bigint);
    new.seq := 1 + coalesce((select seq from notifications where user_id = new.user_id order by seq desc limit 1), 0);
    return new;
end $$;
-- +goose StatementEnd
create trigger number_notification before insert on notifications
    for each row when (new.seq is null) execute function number_notification();

-- +goose Down
drop trigger number_notification on notifications;
drop function number_notification;
drop index notifications_unread;
drop index notifications_seq;
create unique index notifications_seq on notifications (user_id, seq) where seq is not null;
create index notifications_unread on notifications (user_id, seq) where seq is not null and read_at is null;
create index notifications_unnumbered on notifications (user_id, id) where seq is null;
alter table notifications alter column seq drop not null;
