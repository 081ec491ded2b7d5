-- The ids of the jobs that a job depends on. They change only under the project's exclusive lock and the job's.
-- $1 job id
select depends_on
from dependencies
where job_id = $1
