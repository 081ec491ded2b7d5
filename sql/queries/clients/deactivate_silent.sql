-- Marks clients as gone that were not heard of for a while. One whose row is locked is just being heard of.
-- $1 seconds
with silent as materialized (
    select id
    from clients
    where is_active and last_heartbeat < clock_timestamp() - make_interval(secs => $1)
    order by id
    for no key update skip locked
)
update clients
set is_active = false
from silent
where clients.id = silent.id
