-- Completes a job that its current attempt reports as done. The job's row is locked first. What follows for other jobs comes after it
-- (graph/adjust_children.sql), in a statement that sees all edges which were there before the lock.
-- $1 job id, $2 number, $3 result, $4 log tail, or null for that of the last heartbeat
with job as materialized (
    select id
    from jobs
    where id = $1 and attempt = $2 and status in ('QUEUED', 'RUNNING')
    for no key update
), ended as (
    update attempts
    set status = 'COMPLETED', job_status = 'COMPLETED', reported = true, ended_at = clock_timestamp(), progress = 1,
        result = $3, log_tail = coalesce($4, attempts.log_tail)
    from job
    where attempts.job_id = $1 and attempts.number = $2 and attempts.ended_at is null
    returning job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
          cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
), done as (
    update jobs
    set status = 'COMPLETED', updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id in (select job_id from ended)
)
select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
from ended
