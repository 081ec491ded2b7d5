-- What decides when a job is given out.
-- $1 job id, $2 where counting what comes before it stops
select j.id, j.project_id, j.status, j.unmet, j.due, j.not_before, j.ready, j.attempt, p.status as project_status, t.name as task_name,
       t.required_cpu, t.required_accelerators,
       (select count(*) from clients c where c.is_active) as live_clients,
       exists (
           select
           from clients c
           where c.is_active and c.available_cpu >= t.required_cpu and c.available_accelerators >= t.required_accelerators
       ) as fits,
       case when j.ready then (
           select count(*)
           from (
               select
               from tasks other
               cross join lateral (
                   select
                   from jobs ahead
                   where ahead.task_id = other.id and ahead.ready and (-ahead.priority, ahead.id) < (-j.priority, j.id)
                   limit $2
               ) as ahead
               where other.project_id = j.project_id
               limit $2
           ) as counted
       ) end as ahead
from jobs j
join tasks t on t.id = j.task_id
join projects p on p.id = j.project_id
where j.id = $1
