-- +goose Up

-- In the order in which numbers are given. Most notifications have none, because
-- most users do not look: asking for the oldest one by this index is the way that
-- never reads those of others.
drop index notifications_unnumbered;
create index notifications_unnumbered on notifications (user_id, id) where seq is null;

-- +goose Down
drop index notifications_unnumbered;
create index notifications_unnumbered on notifications (user_id) where seq is null;
