-- How a project stands. The oldest ready job is looked for at the head of each priority of each task, by way of the index of ready jobs, which holds few
-- priorities and many jobs. No row if there is no project.
-- $1 project id
with recursive heads as (
    select t.id as task_id, head.rank, head.id, head.updated_at
    from tasks t
    cross join lateral (
        select -j.priority as rank, j.id, j.updated_at
        from jobs j
        where j.task_id = t.id and j.ready
        order by -j.priority, j.id
        limit 1
    ) as head
    where t.project_id = $1
    union all
    select heads.task_id, next.rank, next.id, next.updated_at
    from heads
    cross join lateral (
        select -j.priority as rank, j.id, j.updated_at
        from jobs j
        where j.task_id = heads.task_id and j.ready and -j.priority > heads.rank
        order by -j.priority, j.id
        limit 1
    ) as next
)
select coalesce((
           select json_object_agg(status, jobs)
           from (select c.status, sum(c.jobs)::bigint as jobs from job_counts c where c.project_id = $1 group by c.status) as counted
       ), '{}') as counts,
       (select extract(epoch from clock_timestamp() - min(updated_at))::double precision from heads) as oldest_ready_seconds,
       (select count(*) from clients where is_active) as live_clients,
       (
           select count(*)
           from attempts a
           join jobs j on j.id = a.job_id
           where a.ended_at is null and a.lease_seconds is not null and j.project_id = $1
       ) as leases
from projects p
where p.id = $1
