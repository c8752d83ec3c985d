-- +goose Up

-- What grows with every order is analyzed from a small sample: see msg.sample.
select msg.sample('{notifications, deliveries}', 10);

-- +goose Down
select msg.sample('{notifications, deliveries}', -1);
