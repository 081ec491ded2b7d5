-- Locks a project against tasks that are being made in it: they hold its key until they are committed, and are seen from then on.
-- $1 project id
select id
from projects
where id = $1
for update
