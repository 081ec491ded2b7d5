-- One attempt.
-- $1 job id, $2 number
select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
from attempts
where job_id = $1 and number = $2
