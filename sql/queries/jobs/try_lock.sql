-- As jobs/lock.sql, if nobody holds the job; otherwise its project alone is told.
-- $1 job id
select j.project_id as project_of, locked.*
from jobs j
left join lateral (
    select free.id, free.project_id, free.task_id, free.status, free.unmet, free.attempt, free.failed_attempts, free.due,
           coalesce(free.max_attempts, (select t.max_attempts from tasks t where t.id = free.task_id)) as max_attempts,
           coalesce(free.backoff_seconds, (select t.backoff_seconds from tasks t where t.id = free.task_id)) as backoff_seconds
    from jobs free
    where free.id = j.id
    for no key update skip locked
) as locked on true
where j.id = $1
