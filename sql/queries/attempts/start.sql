-- Notes that a client has begun with what it claimed, which extends the lease as a heartbeat does. The job's row is locked first.
-- $1 job id, $2 number
with job as materialized (
    select id
    from jobs
    where id = $1 and attempt = $2 and status = 'QUEUED'
    for no key update
), begun as (
    update attempts
    set status = 'RUNNING', started_at = clock_timestamp(),
        lease_expires_at = case
            when cancel_requested then lease_expires_at
            else clock_timestamp() + make_interval(secs => lease_seconds)
        end
    from job
    where attempts.job_id = $1 and attempts.number = $2 and attempts.status = 'CLAIMED'
    returning job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
          cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
), running as (
    update jobs
    set status = 'RUNNING', updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id in (select job_id from begun)
)
select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
from begun
