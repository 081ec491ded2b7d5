-- How a project stands. No row if there is no project.
--
-- The oldest ready job is looked for near the head of each priority of each task, by way of the index of ready jobs, which is in the order in which they are given
-- out and not in that of since when they are ready: a job that was tried and is ready again is new, and those behind it are not. An index for that would be one
-- more that each claim has to write. So the first hundred of each are looked at, and fewer where there are very many priorities or tasks: at most $2 priorities,
-- those of all tasks in turn, and about $3 jobs.
-- $1 project id, $2 how many priorities of tasks at most, $3 about how many jobs at most
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
    where t.project_id = $1
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
), chosen as materialized (
    select task_id, rank
    from heads
    limit $2
), oldest as (
    select min(first.updated_at) as ready
    from (select task_id, rank, greatest(least($3::bigint / count(*) over (), 100), 1) as most from chosen) as head
    cross join lateral (
        select j.updated_at
        from jobs j
        where j.task_id = head.task_id and j.ready and -j.priority = head.rank
        order by -j.priority, j.id
        limit head.most
    ) as first
)
select coalesce((
           select json_object_agg(status, jobs)
           from (select c.status, sum(c.jobs)::bigint as jobs from job_counts c where c.project_id = $1 group by c.status) as counted
       ), '{}') as counts,
       (select extract(epoch from clock_timestamp() - ready)::double precision from oldest) as oldest_ready_seconds,
       (select count(*) from clients where is_active) as live_clients,
       (
           select count(*)
           from attempts a
           join jobs j on j.id = a.job_id
           where a.ended_at is null and a.lease_seconds is not null and j.project_id = $1
       ) as leases
from projects p
where p.id = $1
