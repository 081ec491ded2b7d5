-- Replaces what a client may change of a job. One that waits again begins with all of its attempts.
-- $1 job id, $2 name, $3 task id, $4 parameters, $5 status, $6 priority
update jobs
set name = $2, task_id = $3, parameters = $4, status = $5, priority = $6,
    failed_attempts = case
        when $5 in ('PENDING', 'BLOCKED') and status not in ('PENDING', 'BLOCKED') then 0
        else failed_attempts
    end,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
