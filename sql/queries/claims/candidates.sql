-- The most urgent ready jobs of a project (highest priority, then oldest) that could fit, with what they need. Nothing is locked.
--
-- As in jobs/claim.sql the look is per task. Of the tasks, only those with the most urgent heads can have any of the first $5 jobs.
-- $1 project id, $2 most cpu, $3 most accelerators, $4 only these tasks' or null for all, $5 how many at most
with fitting as materialized (
    select t.id, t.required_cpu, t.required_accelerators
    from projects p
    join tasks t on t.project_id = p.id
    where p.id = $1 and p.status = 'ACTIVE' and t.required_cpu <= $2 and t.required_accelerators <= $3
      and ($4::bigint[] is null or t.id = any ($4))
), heads as materialized (
    select fitting.id as task_id, fitting.required_cpu, fitting.required_accelerators
    from fitting
    cross join lateral (
        select -j.priority as rank, j.id
        from jobs j
        where j.task_id = fitting.id and j.ready
        order by -j.priority, j.id
        limit 1
    ) as head
    order by head.rank, head.id
    limit $5
)
select next.id, heads.task_id, heads.required_cpu, heads.required_accelerators
from heads
cross join lateral (
    select -j.priority as rank, j.id
    from jobs j
    where j.task_id = heads.task_id and j.ready
    order by -j.priority, j.id
    limit $5
) as next
order by next.rank, next.id
limit $5
