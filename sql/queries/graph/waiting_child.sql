-- A job that has not been started and still waits for this one, if there is any.
-- $1 job id
select child.id, child.name
from dependencies d
join jobs parent on parent.id = d.depends_on
join jobs child on child.id = d.job_id
where d.depends_on = $1 and parent.status <> 'COMPLETED' and child.status in ('PENDING', 'BLOCKED')
order by child.id
limit 1
