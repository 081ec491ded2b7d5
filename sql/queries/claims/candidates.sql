-- The most urgent ready jobs of a project (highest priority, then oldest) that could fit, with what they need. Nothing is locked.
--
-- As in jobs/claim.sql the look is per task. Of the tasks, only those with the most urgent heads can have any of the first $5 jobs. The first is read that
-- far, each of the others as far as `most` says: if there are so many, there may be more (claims/look.rs). A mark says that nothing before it was ready a
-- moment ago: where many jobs were claimed and could not be vacuumed, walking past them costs more than all else.
-- $1 project id, $2 most cpu, $3 most accelerators, $4 only these tasks' or null for all, $5 how many at most,
-- and for tasks with a mark, one array element each: $6 task ids, $7 ranks (negative priorities), $8 job ids
with fitting as materialized (
    select t.id, t.required_cpu, t.required_accelerators, coalesce(mark.rank, -2147483648) as mark_rank, coalesce(mark.id, 0) as mark_id
    from projects p
    join tasks t on t.project_id = p.id
    left join unnest($6::bigint[], $7::integer[], $8::bigint[]) as mark (task_id, rank, id) on mark.task_id = t.id
    where p.id = $1 and p.status = 'ACTIVE' and t.required_cpu <= $2 and t.required_accelerators <= $3
      and ($4::bigint[] is null or t.id = any ($4))
), heads as materialized (
    select fitting.id as task_id, fitting.required_cpu, fitting.required_accelerators, head.rank as mark_rank, head.id as mark_id,
           case row_number() over (order by head.rank, head.id)
               when 1 then $5::bigint
               else greatest(2 * $5 / least(count(*) over (), $5), 1)
           end as most
    from fitting
    cross join lateral (
        select -j.priority as rank, j.id
        from jobs j
        where j.task_id = fitting.id and j.ready and (-j.priority, j.id) >= (fitting.mark_rank, fitting.mark_id)
        order by -j.priority, j.id
        limit 1
    ) as head
    order by head.rank, head.id
    limit $5
)
select next.id, heads.task_id, next.rank, heads.required_cpu, heads.required_accelerators, heads.most
from heads
cross join lateral (
    select -j.priority as rank, j.id
    from jobs j
    where j.task_id = heads.task_id and j.ready and (-j.priority, j.id) >= (heads.mark_rank, heads.mark_id)
    order by -j.priority, j.id
    limit heads.most
) as next
order by next.rank, next.id
limit $5
