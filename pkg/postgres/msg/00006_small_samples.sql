-- +goose Up

-- For tables that grow with every event or order. ANALYZE reads and sorts 300
-- rows for each unit of a column's statistics target (std_typanalyze in
-- PostgreSQL's analyze.c): 30,000 by default, again each time a table has grown
-- by a tenth. At 370 orders per second on two cores that was more than a second
-- of their time at once, and orders waited for it. The queries here go by keys;
-- for them 3,000 rows tell as much. Not for processed_events: it is cheap, its
-- columns being numbers, and its pruning is planned by how old its rows are.
-- +goose StatementBegin
create function msg.sample(tables regclass[], target integer) returns void language plpgsql as $$
declare
    c record;
begin
    for c in select attrelid::regclass as tbl, attname from pg_attribute
        where attrelid = any(tables) and attnum > 0 and not attisdropped
    loop
        execute format('alter table %s alter column %I set statistics %s', c.tbl, c.attname, target);
    end loop;
end $$;
-- +goose StatementEnd
select msg.sample('{msg.outbox}', 10);

-- +goose Down
select msg.sample('{msg.outbox}', -1);
drop function msg.sample;
