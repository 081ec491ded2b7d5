-- Locks one job until the transaction ends and tells what decides about a change of it. What it depends on is read after that (graph/edges.sql): a
-- sub-select in `where` would see it as it was before the lock was waited for. What its task says is not joined either: if the job was moved to another task
-- while the lock was waited for, the row of the old one would not match any more, and the job would not be found.
-- $1 job id
select j.id, j.project_id, j.task_id, j.status, j.unmet, j.attempt, j.failed_attempts, j.due,
       coalesce(j.max_attempts, (select t.max_attempts from tasks t where t.id = j.task_id)) as max_attempts,
       coalesce(j.backoff_seconds, (select t.backoff_seconds from tasks t where t.id = j.task_id)) as backoff_seconds
from jobs j
where j.id = $1
for no key update
