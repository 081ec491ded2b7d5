-- The project of a job, which never changes.
-- $1 job id
select project_id from jobs where id = $1
