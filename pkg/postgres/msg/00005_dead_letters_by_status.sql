-- +goose Up

-- The oldest letters of a status, in the order in which they are redriven: each
-- chunk of a redrive reads its own, not all that are left.
create index dead_letters_status on msg.dead_letters (status, dead_at, id);

-- +goose Down
drop index msg.dead_letters_status;
