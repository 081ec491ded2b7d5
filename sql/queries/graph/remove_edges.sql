-- Removes the edges from a job to all that it depends on.
-- $1 job id
delete from dependencies
where job_id = $1
