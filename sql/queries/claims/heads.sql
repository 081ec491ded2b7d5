-- The tasks of a project of which jobs are ready, and what these need. Each is looked at by itself: joined, all that is ready would be read where it was little when this was planned.
-- $1 project id, $2 most cpu, $3 most accelerators
select t.id as task_id, t.required_cpu, t.required_accelerators
from projects p
join tasks t on t.project_id = p.id
cross join lateral (select from jobs j where j.task_id = t.id and j.ready limit 1) as head
where p.id = $1 and p.status = 'ACTIVE' and t.required_cpu <= $2 and t.required_accelerators <= $3
