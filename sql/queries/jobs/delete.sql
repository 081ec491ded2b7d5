-- Deletes one job. Its edges must be gone already (graph/detach_job.sql).
-- $1 job id
delete from jobs
where id = $1
