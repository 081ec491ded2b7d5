-- Notes that clients have begun with what they claimed, which extends their leases as heartbeats do. The rows are locked first, jobs before attempts; what
-- somebody else holds is passed over.
-- One array element an attempt, and what is there twice is done once: $1 job ids, $2 numbers
with wanted as materialized (
    select job_id, number
    from unnest($1::bigint[], $2::integer[]) as w (job_id, number)
), locked as materialized (
    select j.id, w.number
    from wanted w
    join jobs j on j.id = w.job_id
    join attempts a on a.job_id = w.job_id and a.number = w.number
    where j.attempt = w.number and j.status = 'QUEUED' and a.status = 'CLAIMED'
    order by j.id
    for no key update of j, a skip locked
), begun as (
    update attempts
    set status = 'RUNNING', started_at = clock_timestamp(),
        lease_expires_at = case
            when cancel_requested then lease_expires_at
            else clock_timestamp() + make_interval(secs => lease_seconds)
        end
    from locked
    where attempts.job_id = locked.id and attempts.number = locked.number
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
