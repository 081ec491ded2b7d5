-- Notes that a client has begun with what it claimed, which extends the lease as a heartbeat does.
-- $1 job id, $2 number
update attempts
set status = 'RUNNING', started_at = clock_timestamp(),
    lease_expires_at = case
        when cancel_requested then lease_expires_at
        else clock_timestamp() + make_interval(secs => lease_seconds)
    end
where job_id = $1 and number = $2 and status = 'CLAIMED'
returning job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
