-- What clients have in all.
-- $1 client ids
select id, available_cpu, available_accelerators
from clients
where id = any ($1::text[])
