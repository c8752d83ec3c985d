-- +goose Up

-- What grows with every order is analyzed from a small sample: see msg.sample.
select msg.sample('{payments, simulator.intents, simulator.charges, simulator.voids, simulator.calls}', 10);

-- +goose Down
select msg.sample('{payments, simulator.intents, simulator.charges, simulator.voids, simulator.calls}', -1);
