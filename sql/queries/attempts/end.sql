-- Ends an attempt that is locked.
-- $1 job id, $2 number, $3 status, $4 what the job becomes, $5 result, $6 log tail, $7 error, $8 exit code, $9 reason,
-- $10 whether it is its own report that ends it
update attempts
set status = $3, job_status = $4, ended_at = clock_timestamp(),
    progress = case when $3 = 'COMPLETED' then 1 else progress end,
    result = $5, log_tail = coalesce($6, log_tail), error = $7, exit_code = $8, reason = $9, reported = $10
where job_id = $1 and number = $2 and ended_at is null
returning job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
