-- Locks one job until the transaction ends and tells what decides about a change of it. What it depends on is read after that (graph/edges.sql): a
-- sub-select here would see it as it was before the lock was waited for.
-- $1 job id
select j.id, j.project_id, j.task_id, j.status, j.unmet, j.attempt, j.failed_attempts, j.due,
       coalesce(j.max_attempts, t.max_attempts) as max_attempts, coalesce(j.backoff_seconds, t.backoff_seconds) as backoff_seconds
from jobs j
join tasks t on t.id = j.task_id
where j.id = $1
for no key update of j
