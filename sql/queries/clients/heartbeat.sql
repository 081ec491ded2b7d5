-- Notes that a client is alive, if there is such a client. Where somebody holds it just now, who claims for it or changes it, that is for the next heartbeat.
-- $1 client id
with noted as (
    update clients
    set last_heartbeat = clock_timestamp(), is_active = true
    where id = any (array (select c.id from clients c where c.id = $1 for no key update skip locked))
)
select id
from clients
where id = $1
