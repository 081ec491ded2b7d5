-- Ends leases that have ended by now, where nothing follows from it for other jobs: the job may be tried again, and waits for nothing; or it has failed or is to be
-- cancelled, and nothing depends on it. An attempt that somebody holds just now, as a heartbeat does, is passed over. The jobs were locked by a statement before
-- this one (attempts/expired.sql), so that all edges to them are seen.
-- $1 job ids, $2 attempts a job has by default, $3 backoff in seconds by default, $4 where backoff in seconds stops to grow
with late as materialized (
    select a.job_id, a.number, a.client_id, a.cancel_requested
    from unnest($1::bigint[]) as locked (id)
    join jobs j on j.id = locked.id
    join attempts a on a.job_id = j.id and a.number = j.attempt
    where a.ended_at is null and a.lease_expires_at <= clock_timestamp() and j.status in ('QUEUED', 'RUNNING')
    order by a.job_id
    for no key update of a skip locked
), judged as materialized (
    select j.id, late.number, late.client_id, j.project_id, j.unmet, j.failed_attempts + case when late.cancel_requested then 0 else 1 end as failed_attempts,
           case
               when late.cancel_requested then 'CANCELLED'
               when j.failed_attempts + 1 < coalesce(j.max_attempts, t.max_attempts, $2) then 'PENDING'
               else 'FAILED'
           end as status,
           least(greatest($4::double precision, base.seconds), base.seconds * power(2, least(j.failed_attempts, 30))) as delay
    from late
    join jobs j on j.id = late.job_id
    join tasks t on t.id = j.task_id
    cross join lateral (select coalesce(j.backoff_seconds, t.backoff_seconds, $3)::double precision as seconds) as base
), alone as materialized (
    select id, number, client_id, project_id, status, failed_attempts, case when status = 'PENDING' then delay end as delay
    from judged
    where case status
        when 'PENDING' then unmet = 0
        else not exists (select from dependencies d where d.depends_on = judged.id)
    end
), ended as (
    update attempts
    set status = 'EXPIRED', job_status = alone.status, reason = 'lease expired', ended_at = clock_timestamp()
    from alone
    where attempts.job_id = alone.id and attempts.number = alone.number
), settled as (
    update jobs
    set status = alone.status, failed_attempts = alone.failed_attempts,
        not_before = case when alone.delay > 0 then clock_timestamp() + make_interval(secs => alone.delay) else not_before end,
        due = coalesce(alone.delay <= 0, due),
        updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
    from alone
    where jobs.id = alone.id
)
select id, project_id, client_id, status = 'PENDING' as waits
from alone
