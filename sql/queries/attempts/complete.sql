-- Completes jobs that their current attempts report as done. The jobs' rows are locked first; one that somebody else holds is passed over. What follows for
-- other jobs comes after it (graph/adjust_children.sql), in a statement that sees all edges which were there before the lock.
-- One array element an attempt, each once: $1 job ids, $2 numbers, $3 results, $4 log tails, or null for that of the last heartbeat
with wanted as materialized (
    select job_id, number, result, log_tail
    from unnest($1::bigint[], $2::integer[], $3::json[], $4::text[]) as w (job_id, number, result, log_tail)
), job as materialized (
    select j.id, w.number, w.result, w.log_tail
    from wanted w
    join jobs j on j.id = w.job_id
    where j.attempt = w.number and j.status in ('QUEUED', 'RUNNING')
    order by j.id
    for no key update of j skip locked
), ended as (
    update attempts
    set status = 'COMPLETED', job_status = 'COMPLETED', reported = true, ended_at = clock_timestamp(), progress = 1,
        result = job.result, log_tail = coalesce(job.log_tail, attempts.log_tail)
    from job
    where attempts.job_id = job.id and attempts.number = job.number and attempts.ended_at is null
    returning attempts.job_id, attempts.number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds,
          lease_expires_at, cancel_requested, progress, message, attempts.result, error, exit_code, reason, attempts.log_tail, job_status, reported
), done as (
    update jobs
    set status = 'COMPLETED', updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    where id = any (array (select job_id from ended))
)
select job_id, number, client_id, status, cpu, accelerators, claimed_at, started_at, ended_at, lease_seconds, lease_expires_at,
       cancel_requested, progress, message, result, error, exit_code, reason, log_tail, job_status, reported
from ended
