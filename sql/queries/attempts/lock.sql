-- Locks an attempt until the transaction ends. The job's row is locked before, always.
-- $1 job id, $2 number
select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported,
       coalesce(lease_expires_at <= clock_timestamp(), false) as expired
from attempts
where job_id = $1 and number = $2
for no key update
