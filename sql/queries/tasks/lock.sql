-- Locks a task against jobs that are being made of it or moved to it: they hold the key until they are committed, and are seen from then on.
-- $1 task id
select id
from tasks
where id = $1
for update
