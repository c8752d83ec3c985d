-- +goose Up
create schema if not exists msg;

-- +goose Down
drop schema msg;
