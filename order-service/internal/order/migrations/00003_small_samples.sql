-- +goose Up

-- What grows with every order is analyzed from a small sample: see msg.sample.
select msg.sample('{orders, timeline, idempotency_keys}', 10);

-- +goose Down
select msg.sample('{orders, timeline, idempotency_keys}', -1);
