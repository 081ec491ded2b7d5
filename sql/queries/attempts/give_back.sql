-- Gives back the jobs of leases that have ended, where nothing follows from it for other jobs: a job that may be tried again, and waits for nothing. The
-- leases are looked for first and by themselves: joined at once, they would be looked for by way of all jobs.
-- $1 how many at most, $2 attempts a job has by default, $3 backoff in seconds by default, $4 where backoff in seconds stops to grow
with late as materialized (
    select job_id, number
    from attempts
    where ended_at is null and lease_seconds is not null and lease_expires_at <= clock_timestamp() and not cancel_requested
    order by lease_expires_at
    limit $1
), expired as materialized (
    select j.id, late.number, j.failed_attempts + 1 as failed_attempts,
           least(greatest($4::double precision, base.seconds), base.seconds * power(2, least(j.failed_attempts, 30))) as delay
    from late
    join jobs j on j.id = late.job_id and j.attempt = late.number
    join tasks t on t.id = j.task_id
    cross join lateral (select coalesce(j.backoff_seconds, t.backoff_seconds, $3)::double precision as seconds) as base
    where j.status in ('QUEUED', 'RUNNING') and j.unmet = 0
      and j.failed_attempts + 1 < coalesce(j.max_attempts, t.max_attempts, $2)
    order by j.id
    for no key update of j skip locked
), ended as (
    update attempts
    set status = 'EXPIRED', job_status = 'PENDING', ended_at = clock_timestamp()
    from expired
    where attempts.job_id = expired.id and attempts.number = expired.number
      and attempts.ended_at is null and attempts.lease_expires_at <= clock_timestamp() and not attempts.cancel_requested
    returning attempts.job_id
)
update jobs
set status = 'PENDING', failed_attempts = expired.failed_attempts,
    not_before = case when expired.delay > 0 then clock_timestamp() + make_interval(secs => expired.delay) else not_before end,
    due = expired.delay <= 0,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
from expired
where jobs.id = expired.id and jobs.id = any (array (select job_id from ended))
returning jobs.project_id
