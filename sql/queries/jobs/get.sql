-- One job by its id, with the jobs that it depends on as {id: name}.
-- $1 job id
select j.id, j.name, j.project_id, j.task_id, j.parameters, j.status, j.priority,
       j.attempt, j.max_attempts, j.backoff_seconds, j.not_before, j.created_at, j.updated_at,
       coalesce((
           select json_object_agg(parent.id, parent.name order by parent.id)
           from dependencies d
           join jobs parent on parent.id = d.depends_on
           where d.job_id = j.id
       ), '{}') as depends
from jobs j
where j.id = $1
