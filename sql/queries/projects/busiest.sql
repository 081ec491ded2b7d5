-- How the projects stand that have the most jobs which are not over. Of each, the oldest ready job is looked for as projects/stats.sql does, within the same
-- bounds for all of them together.
-- $1 how many projects at most, $2 how many priorities of tasks at most, $3 about how many jobs at most
with recursive counted as materialized (
    select project_id, status, sum(jobs)::bigint as jobs
    from job_counts
    group by project_id, status
    having sum(jobs) <> 0
), chosen as materialized (
    select project_id, json_object_agg(status, jobs) as counts, bool_or(status = 'PENDING') as may_be_ready
    from counted
    group by project_id
    order by sum(jobs) filter (where status in ('PENDING', 'QUEUED', 'RUNNING', 'BLOCKED')) desc nulls last, project_id
    limit $1
), heads as (
    select chosen.project_id, t.id as task_id, head.rank
    from chosen
    join tasks t on t.project_id = chosen.project_id
    cross join lateral (
        select -j.priority as rank
        from jobs j
        where j.task_id = t.id and j.ready
        order by -j.priority, j.id
        limit 1
    ) as head
    where chosen.may_be_ready
    union all
    select heads.project_id, heads.task_id, next.rank
    from heads
    cross join lateral (
        select -j.priority as rank
        from jobs j
        where j.task_id = heads.task_id and j.ready and -j.priority > heads.rank
        order by -j.priority, j.id
        limit 1
    ) as next
), near as materialized (
    select project_id, task_id, rank
    from heads
    limit $2
), oldest as (
    select head.project_id, min(first.updated_at) as ready
    from (select project_id, task_id, rank, greatest(least($3::bigint / count(*) over (), 100), 1) as most from near) as head
    cross join lateral (
        select j.updated_at
        from jobs j
        where j.task_id = head.task_id and j.ready and -j.priority = head.rank
        order by -j.priority, j.id
        limit head.most
    ) as first
    group by head.project_id
)
select chosen.project_id, chosen.counts,
       extract(epoch from clock_timestamp() - oldest.ready)::double precision as oldest_ready_seconds
from chosen
left join oldest on oldest.project_id = chosen.project_id
