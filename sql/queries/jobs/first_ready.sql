-- The first ready job of each of a project's tasks that has one; and how many dead rows PostgreSQL knows of among all jobs.
-- $1 project id
select first.id, t.id as task_id, first.rank, pg_stat_get_dead_tuples('jobs'::regclass) as dead
from tasks t
cross join lateral (
    select -j.priority as rank, j.id
    from jobs j
    where j.task_id = t.id and j.ready
    order by -j.priority, j.id
    limit 1
) as first
where t.project_id = $1
