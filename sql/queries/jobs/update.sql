-- Replaces what a client may change of a job.
-- $1 job id, $2 name, $3 task id, $4 parameters, $5 status, $6 priority
update jobs
set name = $2, task_id = $3, parameters = $4, status = $5, priority = $6,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
