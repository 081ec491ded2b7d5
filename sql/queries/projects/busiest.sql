-- How the projects stand that have the most jobs which are not over. Of each, the oldest ready job is looked for as projects/stats.sql does, within the same
-- bounds for all of them together, of which each has its share.
-- $1 how many projects at most, $2 how many priorities of tasks at most, $3 about how many jobs at most
with counted as materialized (
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
), near as materialized (
    select share.project_id, heads.task_id, heads.rank
    from (select project_id, greatest($2::bigint / count(*) over (), 1) as most from chosen where may_be_ready) as share
    cross join lateral (
        with recursive heads as (
            select t.id as task_id, head.rank
            from tasks t
            cross join lateral (
                select -j.priority as rank
                from jobs j
                where j.task_id = t.id and j.ready
                order by -j.priority, j.id
                limit 1
            ) as head
            where t.project_id = share.project_id
            union all
            select heads.task_id, next.rank
            from heads
            cross join lateral (
                select -j.priority as rank
                from jobs j
                where j.task_id = heads.task_id and j.ready and -j.priority > heads.rank
                order by -j.priority, j.id
                limit 1
            ) as next
        )
        select task_id, rank
        from heads
        limit share.most
    ) as heads
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
