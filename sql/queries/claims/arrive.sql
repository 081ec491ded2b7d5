-- Locks clients until the transaction ends, and tells what they have in all, and whether they are there. That is noted now and then; who has signed off
-- is there again only if it claims anew.
-- $1 client ids, $2 those of them that claim now
with locked as materialized (
    select id, available_cpu, available_accelerators, is_active
    from clients
    where id = any ($1::text[])
    order by id
    for no key update
), noted as (
    update clients
    set last_heartbeat = clock_timestamp(), is_active = true
    where id = any (array (select id from locked))
      and (is_active or id = any ($2::text[]))
      and (last_heartbeat < clock_timestamp() - interval '5 seconds' or not is_active)
)
select id, available_cpu, available_accelerators, is_active or id = any ($2) as is_there
from locked
