-- Notes that clients have begun with what they claimed, which extends their leases as heartbeats do. The jobs' rows are locked first; one that somebody
-- else holds is passed over.
-- One array element an attempt, each once: $1 job ids, $2 numbers
with wanted as materialized (
    select job_id, number
    from unnest($1::bigint[], $2::integer[]) as w (job_id, number)
), job as materialized (
    select j.id, w.number
    from wanted w
    join jobs j on j.id = w.job_id
    where j.attempt = w.number and j.status = 'QUEUED'
    order by j.id
    for no key update of j skip locked
), begun as (
    update attempts
    set status = 'RUNNING', started_at = clock_timestamp(),
        lease_expires_at = case
            when cancel_requested then lease_expires_at
            else clock_timestamp() + make_interval(secs => lease_seconds)
        end
    from job
    where attempts.job_id = job.id and attempts.number = job.number and attempts.status = 'CLAIMED'
    returning job_id, attempts.number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
          cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
), running as (
    update jobs
    set status = 'RUNNING', updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = any (array (select job_id from begun))
)
select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
from begun
