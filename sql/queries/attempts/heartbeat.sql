-- Extends the leases of attempts that live; no lease is extended any more once its client is to give up the job. Gives back what is left, for each, and
-- whether somebody else holds it just now, so that it was not extended. Waits for nobody. Their clients are alive, which is noted now and then.
-- One array element a heartbeat: $1 job ids, $2 numbers, $3 progress or null, $4 message or null, $5 lease in seconds or null for the claim's,
-- $6 log tail or null; $7 only of this client, or null for any. Of an attempt that comes twice what is said last counts, as if it had come later.
with beats as materialized (
    select beat.job_id, beat.number,
           (array_agg(beat.progress order by beat.place desc) filter (where beat.progress is not null))[1] as progress,
           (array_agg(beat.message order by beat.place desc) filter (where beat.message is not null))[1] as message,
           (array_agg(beat.lease_seconds order by beat.place desc) filter (where beat.lease_seconds is not null))[1] as lease_seconds,
           (array_agg(beat.log_tail order by beat.place desc) filter (where beat.log_tail is not null))[1] as log_tail
    from unnest($1::bigint[], $2::integer[], $3::double precision[], $4::text[], $5::integer[], $6::text[]) with ordinality
         as beat (job_id, number, progress, message, lease_seconds, log_tail, place)
    group by beat.job_id, beat.number
), live as materialized (
    select a.job_id, a.number, a.client_id, a.lease_expires_at, a.cancel_requested
    from attempts a
    join beats on beats.job_id = a.job_id and beats.number = a.number
    where a.ended_at is null and ($7::text is null or a.client_id = $7)
), alive as (
    update clients
    set last_heartbeat = clock_timestamp(), is_active = true
    where id = any (array (
        select c.id
        from clients c
        where c.id = any (array (select client_id from live))
          and (c.last_heartbeat < clock_timestamp() - interval '5 seconds' or not c.is_active)
        for no key update skip locked
    ))
), locked as materialized (
    select a.job_id, a.number
    from attempts a
    join live on live.job_id = a.job_id and live.number = a.number
    where a.ended_at is null
    for no key update of a skip locked
), extended as (
    update attempts
    set lease_seconds = case when attempts.lease_seconds is not null then coalesce(beats.lease_seconds, attempts.lease_seconds) end,
        lease_expires_at = case
            when attempts.lease_seconds is null or cancel_requested then lease_expires_at
            else clock_timestamp() + make_interval(secs => coalesce(beats.lease_seconds, attempts.lease_seconds))
        end,
        progress = coalesce(beats.progress, attempts.progress),
        message = coalesce(beats.message, attempts.message),
        log_tail = coalesce(beats.log_tail, attempts.log_tail)
    from locked
    join beats on beats.job_id = locked.job_id and beats.number = locked.number
    where attempts.job_id = locked.job_id and attempts.number = locked.number
    returning attempts.job_id, attempts.number, attempts.lease_expires_at, attempts.cancel_requested
)
select live.job_id, live.number, extended.job_id is null as is_held,
       case when extended.job_id is null then live.lease_expires_at else extended.lease_expires_at end as lease_expires_at,
       case when extended.job_id is null then live.cancel_requested else extended.cancel_requested end as cancel_requested
from live
left join extended on extended.job_id = live.job_id and extended.number = live.number
