-- +goose Up

-- The head of a parked key is kept with its followers, as the row with the lowest
-- seq, so that it can be tried from here when its retry record is late or lost.
-- Without a head the followers are being handled, one after the other.
alter table msg.parked_keys alter column head_event drop not null;
alter table msg.parked_keys add column head_attempt smallint not null default 0; -- the attempt that is due at head_due
alter table msg.parked_events add column attempt smallint not null default 0;    -- a follower's: already in processed_events

-- +goose Down
alter table msg.parked_events drop column attempt;
alter table msg.parked_keys drop column head_attempt;
delete from msg.parked_keys where head_event is null;
alter table msg.parked_keys alter column head_event set not null;
