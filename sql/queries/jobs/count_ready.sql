-- Counts the ready jobs of a project that fit.
-- $1 project id, $2 available cpu or 0 for any, $3 available accelerators or 0 for any, $4 where counting stops
select count(*) as ready
from (
    select
    from projects p
    join tasks t on t.project_id = p.id
    cross join lateral (select from jobs j where j.task_id = t.id and j.ready limit $4) as fits
    where p.id = $1 and p.status = 'ACTIVE'
      and ($2::integer = 0 or t.required_cpu <= $2)
      and ($3::integer = 0 or t.required_accelerators <= $3)
    limit $4
) as counted
