-- Notes that clients are there, locks them until the transaction ends, and tells what they have in all.
-- $1 client ids
with locked as materialized (
    select id
    from clients
    where id = any ($1::text[])
    order by id
    for no key update
)
update clients
set last_heartbeat = clock_timestamp(), is_active = true
where id = any (array (select id from locked))
returning id, available_cpu, available_accelerators
