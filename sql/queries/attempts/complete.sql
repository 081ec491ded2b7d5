-- Completes jobs that their current attempts report as done. Their rows were locked by a statement before this one, so that all edges to them are seen. Those
-- that others depend on are completed only if that is asked for: what follows from them comes after it (graph/adjust_children.sql).
-- One array element an attempt, each once: $1 job ids, $2 numbers, $3 results, $4 log tails, or null for that of the last heartbeat,
-- and $5 whether also those that others depend on
with wanted as materialized (
    select job_id, number, result, log_tail
    from unnest($1::bigint[], $2::integer[], $3::json[], $4::text[]) as w (job_id, number, result, log_tail)
    where $5 or (select true from dependencies d where d.depends_on = w.job_id limit 1) is null
    order by job_id
), ended as (
    update attempts
    set status = 'COMPLETED', job_status = 'COMPLETED', reported = true, ended_at = clock_timestamp(), progress = 1,
        result = wanted.result, log_tail = coalesce(wanted.log_tail, attempts.log_tail)
    from wanted
    where attempts.job_id = wanted.job_id and attempts.number = wanted.number and attempts.ended_at is null
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
