-- Locks one job until the transaction ends and tells what decides about a change of it.
-- $1 job id
select id, project_id, task_id, status, unmet, attempt,
       array (select d.depends_on from dependencies d where d.job_id = jobs.id order by d.depends_on) as depends
from jobs
where id = $1
for no key update
