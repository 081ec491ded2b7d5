-- The jobs that a job depends on, by id.
-- $1 job id
select parent.id, parent.name, parent.status
from dependencies d
join jobs parent on parent.id = d.depends_on
where d.job_id = $1
order by parent.id
