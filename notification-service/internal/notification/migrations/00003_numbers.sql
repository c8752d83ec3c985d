-- +goose Up

-- A user's last number is that of the user's last notification: an index leads
-- there, and giving numbers writes one row less.
alter table contacts drop column last_seq;

-- +goose Down
alter table contacts add column last_seq bigint not null default 0;
update contacts c set last_seq = coalesce((select max(seq) from notifications n where n.user_id = c.user_id and n.seq is not null), 0);
