-- Extends the leases of everything that a client runs; no lease is extended any more once its client is to give up the job. Tells of each
-- whether somebody else holds it just now, so that it was not extended, and waits for nobody. Where a client's attempts begin is in its row (claims/held.sql).
-- $1 client id
with bound as materialized (
    select case when live_from <= last_value then live_from else 0 end as sequence
    from clients
    cross join attempts_sequence_seq
    where id = $1
), live as materialized (
    select job_id, number, lease_expires_at, cancel_requested
    from attempts
    where client_id = $1 and sequence >= (select bound.sequence from bound) and ended_at is null and lease_seconds is not null
), locked as materialized (
    select a.job_id, a.number
    from attempts a
    join live on live.job_id = a.job_id and live.number = a.number
    where a.ended_at is null
    for no key update of a skip locked
), extended as (
    update attempts
    set lease_expires_at = case when cancel_requested then lease_expires_at else clock_timestamp() + make_interval(secs => lease_seconds) end
    from locked
    where attempts.job_id = locked.job_id and attempts.number = locked.number
    returning attempts.job_id, attempts.number, attempts.lease_expires_at, attempts.cancel_requested
)
select live.job_id, live.number, extended.job_id is null as is_held,
       case when extended.job_id is null then live.lease_expires_at else extended.lease_expires_at end as lease_expires_at,
       case when extended.job_id is null then live.cancel_requested else extended.cancel_requested end as cancel_requested
from live
left join extended on extended.job_id = live.job_id and extended.number = live.number
