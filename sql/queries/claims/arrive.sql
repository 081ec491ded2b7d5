-- Locks clients until the transaction ends, and tells what they have in all. That they are there is noted now and then.
-- $1 client ids
with locked as materialized (
    select id, available_cpu, available_accelerators
    from clients
    where id = any ($1::text[])
    order by id
    for no key update
), noted as (
    update clients
    set last_heartbeat = clock_timestamp(), is_active = true
    where id = any (array (select id from locked))
      and (last_heartbeat < clock_timestamp() - interval '5 seconds' or not is_active)
)
select id, available_cpu, available_accelerators
from locked
