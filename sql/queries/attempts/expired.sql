-- Locks the jobs of leases that have ended, in the order of their ids, until the transaction ends. Those whose job somebody is just changing are passed over:
-- so servers that look at the same time share them. The leases are looked for first and by themselves: joined at once, they would be looked for by way of all
-- jobs.
-- $1 only jobs above this, $2 how many at most
with late as materialized (
    select job_id, number
    from attempts
    where ended_at is null and lease_seconds is not null and lease_expires_at <= clock_timestamp()
)
select locked.project_id, locked.id as job_id, next.number
from (select late.job_id, late.number from late where late.job_id > $1 order by late.job_id) as next
cross join lateral (
    select j.id, j.project_id
    from jobs j
    where j.id = next.job_id and j.attempt = next.number and j.status in ('QUEUED', 'RUNNING')
    for no key update skip locked
) as locked
limit $2
