-- Leases that have ended and were not given back by attempts/give_back.sql: what follows from them may reach other jobs. Those whose job somebody is just
-- changing are left to the next look.
-- $1 how many at most
with late as materialized (
    select job_id, number
    from attempts
    where ended_at is null and lease_seconds is not null and lease_expires_at <= clock_timestamp()
      and exists (select from jobs j where j.id = job_id and j.attempt = number and j.status in ('QUEUED', 'RUNNING'))
    order by lease_expires_at
    limit $1
)
select late.job_id, late.number
from late
join jobs j on j.id = late.job_id
for no key update of j skip locked
