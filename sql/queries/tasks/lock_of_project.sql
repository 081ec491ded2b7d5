-- Locks all tasks of a project against jobs that are being made of them (tasks/lock.sql).
-- $1 project id
select id
from tasks
where project_id = $1
order by id
for update
