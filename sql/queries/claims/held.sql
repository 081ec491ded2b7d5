-- What clients' attempts hold of them. Read after the clients are locked.
-- $1 client ids
select client_id as id, sum(cpu)::bigint as cpu, sum(accelerators)::bigint as accelerators
from attempts
where client_id = any ($1::text[]) and ended_at is null and lease_seconds is not null
group by client_id
