-- Locks one job until the transaction ends and tells what decides about a change of it. What it depends on is read after that (graph/edges.sql): a
-- sub-select here would see it as it was before the lock was waited for.
-- $1 job id
select id, project_id, task_id, status, unmet, attempt
from jobs
where id = $1
for no key update
