-- Replaces what a client may change of a job. One that waits again begins with all of its attempts. A time that it had already, of which clients keep milliseconds at
-- least, stays what it is, and makes it neither due nor not due.
-- $1 job id, $2 name, $3 task id, $4 parameters, $5 status, $6 priority; and, or null to leave it as it is: $7 most attempts, $8 backoff in seconds, $9 not before
update jobs
set name = $2, task_id = $3, parameters = $4, status = $5, priority = $6,
    failed_attempts = case
        when $5 in ('PENDING', 'BLOCKED') and status not in ('PENDING', 'BLOCKED') then 0
        else failed_attempts
    end,
    max_attempts = coalesce($7, max_attempts), backoff_seconds = coalesce($8, backoff_seconds),
    not_before = case
        when $9::timestamptz is null or date_trunc('milliseconds', $9) = date_trunc('milliseconds', not_before) then not_before
        else $9
    end,
    due = case
        when $9 is null or date_trunc('milliseconds', $9) = date_trunc('milliseconds', not_before) then due
        else $9 <= clock_timestamp()
    end,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
