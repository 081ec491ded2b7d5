-- Ends an attempt that is locked, but not one that is done (attempts/complete.sql). Of a job that was tried very often, the oldest attempts are forgotten.
-- $1 job id, $2 number, $3 status, $4 what the job becomes, $5 log tail or null for that of the last heartbeat, $6 error,
-- $7 exit code, $8 reason, $9 whether it is its own report that ends it, $10 how many attempts are kept
with forgotten as (
    delete from attempts
    where job_id = $1 and number <= $2 - $10::integer
)
update attempts
set status = $3, job_status = $4, ended_at = clock_timestamp(),
    log_tail = coalesce($5, log_tail), error = $6, exit_code = $7, reason = $8, reported = $9
where job_id = $1 and number = $2 and ended_at is null
returning job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
