-- Leases that have ended and were not given back by attempts/give_back.sql: what follows from them may reach other jobs.
-- $1 how many at most
select a.job_id, a.number
from attempts a
where a.ended_at is null and a.lease_seconds is not null and a.lease_expires_at <= clock_timestamp()
order by a.lease_expires_at
limit $1
