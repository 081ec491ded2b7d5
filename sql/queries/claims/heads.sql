-- The tasks of projects of which jobs are ready, and what these need, with the places of those who look for them. Each is looked at by itself: joined, all that is
-- ready would be read where it was little when this was planned.
-- One array element a look: $1 project ids, $2 most cpu, $3 most accelerators
select wanted.position, t.id as task_id, t.required_cpu, t.required_accelerators
from unnest($1::bigint[], $2::integer[], $3::integer[]) with ordinality as wanted (project_id, cpu, accelerators, position)
cross join lateral (
    select p.id
    from projects p
    where p.id = wanted.project_id and p.status = 'ACTIVE'
    offset 0
) as p
cross join lateral (
    select tasks.id, tasks.required_cpu, tasks.required_accelerators
    from tasks
    where tasks.project_id = p.id and tasks.required_cpu <= wanted.cpu and tasks.required_accelerators <= wanted.accelerators
    offset 0
) as t
cross join lateral (select from jobs j where j.task_id = t.id and j.ready limit 1) as head
