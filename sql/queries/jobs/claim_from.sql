-- As jobs/claim.sql, which says more, where so much was claimed and could not be vacuumed that walking past it would cost more than all else: a mark says
-- that nothing of a task was ready before it a moment ago, as in claims/candidates.sql. Apart, so that the usual claim does without.
-- Keep `id = any (array (...))`: a join with the update would hash all of `jobs` under a generic plan. And keep counting in order: without, all of `jobs` is
-- read to count.
-- $1 project id, $2 available cpu or 0 for any, $3 available accelerators or 0 for any, $4 where counting what could have been claimed stops, $5 where counting what waits stops,
-- $6 seconds that the lease is to last, or null for none,
-- and for tasks with a mark, one array element each: $7 task ids, $8 ranks (negative priorities), $9 job ids
with fitting as materialized (
    select t.id, coalesce(mark.rank, -2147483648) as mark_rank, coalesce(mark.id, 0) as mark_id
    from projects p
    join tasks t on t.project_id = p.id
    left join unnest($7::bigint[], $8::integer[], $9::bigint[]) as mark (task_id, rank, id) on mark.task_id = t.id
    where p.id = $1 and p.status = 'ACTIVE'
      and ($2::integer = 0 or t.required_cpu <= $2)
      and ($3::integer = 0 or t.required_accelerators <= $3)
), heads as materialized (
    select fitting.id as task_id, fitting.mark_rank, fitting.mark_id,
           coalesce(lead(head.rank) over by_urgency, 2147483647) as next_rank,
           coalesce(lead(head.id) over by_urgency, 9223372036854775807) as next_id
    from fitting
    cross join lateral (
        select -j.priority as rank, j.id
        from jobs j
        where j.task_id = fitting.id and j.ready and (-j.priority, j.id) >= (fitting.mark_rank, fitting.mark_id)
        order by -j.priority, j.id
        limit 1
    ) as head
    window by_urgency as (order by head.rank, head.id)
    order by head.rank, head.id
), claimed as (
    update jobs
    set status = 'QUEUED', attempt = attempt + 1,
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = any (array (
        (
            select next.id
            from heads
            cross join lateral (
                select j.id
                from jobs j
                where j.task_id = heads.task_id and j.ready and (-j.priority, j.id) >= (heads.mark_rank, heads.mark_id)
                  and (-j.priority, j.id) < (heads.next_rank, heads.next_id)
                order by -j.priority, j.id
                limit 1
                for no key update skip locked
            ) as next
        )
        union all
        (
            select next.id
            from heads
            cross join lateral (
                select j.id
                from jobs j
                where j.task_id = heads.task_id and j.ready and (-j.priority, j.id) >= (heads.mark_rank, heads.mark_id)
                order by -j.priority, j.id
                limit 1
                for no key update skip locked
            ) as next
        )
        limit 1
    ))
    returning id, name, project_id, task_id, parameters, status, priority, attempt, max_attempts, backoff_seconds, not_before, created_at,
              updated_at
), begun as (
    insert into attempts (job_id, number, status, cpu, accelerators, lease_seconds, lease_expires_at)
    select claimed.id, claimed.attempt, 'CLAIMED', t.required_cpu, t.required_accelerators, $6::integer,
           clock_timestamp() + make_interval(secs => $6::integer)
    from claimed
    join tasks t on t.id = claimed.task_id
)
select claimed.id, claimed.name, claimed.project_id, claimed.task_id, task.name as task_name, claimed.parameters, claimed.status,
       claimed.priority, claimed.attempt, claimed.max_attempts, claimed.backoff_seconds, claimed.not_before, claimed.created_at, claimed.updated_at,
       coalesce((
           select json_object_agg(parent.id, parent.name order by parent.id)
           from dependencies d
           join jobs parent on parent.id = d.depends_on
           where d.job_id = claimed.id
       ), '{}') as depends,
       (
           select count(*)
           from (
               select
               from fitting
               cross join lateral (
                   select
                   from jobs j
                   where j.task_id = fitting.id and j.ready and (-j.priority, j.id) >= (fitting.mark_rank, fitting.mark_id)
                   order by -j.priority, j.id
                   limit $4
               ) as fits
               limit $4
           ) as counted
       ) as num_pending,
       (
           select count(*)
           from (select from jobs j where j.project_id = $1 and j.waiting limit $5) as counted
       ) as num_waiting
from (select) as always
left join claimed on true
left join tasks task on task.id = claimed.task_id
