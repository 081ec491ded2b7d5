-- One client by its id.
-- $1 client id
select id, name, entity, description, available_cpu, available_accelerators, last_heartbeat, created_at, is_active
from clients
where id = $1
