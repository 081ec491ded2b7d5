-- A job of another task that has not been started and still waits for a job of this one, if there is any.
-- $1 task id
select child.id, child.name
from jobs parent
join dependencies d on d.depends_on = parent.id
join jobs child on child.id = d.job_id
where parent.task_id = $1 and parent.status <> 'COMPLETED'
  and child.task_id <> $1 and child.status in ('PENDING', 'BLOCKED')
order by child.id
limit 1
