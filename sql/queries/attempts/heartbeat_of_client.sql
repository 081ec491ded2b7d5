-- Extends the leases of everything that a client runs; no lease is extended any more once its client is to give up the job. Where its attempts begin is in its
-- row (claims/held.sql).
-- $1 client id
with bound as materialized (
    select case when live_from <= last_value then live_from else 0 end as sequence
    from clients
    cross join attempts_sequence_seq
    where id = $1
), locked as materialized (
    select job_id, number
    from attempts
    where client_id = $1 and sequence >= (select bound.sequence from bound) and ended_at is null and lease_seconds is not null
    order by job_id
    for no key update
)
update attempts
set lease_expires_at = case when cancel_requested then lease_expires_at else clock_timestamp() + make_interval(secs => lease_seconds) end
from locked
where attempts.job_id = locked.job_id and attempts.number = locked.number and attempts.ended_at is null
returning attempts.job_id, attempts.number, attempts.status, attempts.lease_expires_at, attempts.cancel_requested
