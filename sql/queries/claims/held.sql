-- What clients' attempts hold of them, if anything. All of these clients must be locked before: until then others may claim for them.
--
-- Attempts that ended leave dead entries in the index, which no vacuum can remove while anybody holds an old snapshot. So each client's row says from where on
-- its attempts live (`live_from`): claims of one client follow each other, each with a higher sequence. It is raised now and then, and it is noted that the
-- client is there; who has signed off is there again only if it claims anew. Above the sequence itself it means nothing: then data came from elsewhere, and
-- the sequence did not come with it. Rows that are locked stay where they are, so those that are noted are found by their place and not by reading all clients.
-- $1 client ids, $2 those of them that claim now
with latest as materialized (
    select last_value from attempts_sequence_seq
), held as materialized (
    select c.id, c.place, c.is_silent, live.cpu, live.accelerators, live.first
    from unnest($1::text[]) as wanted (id)
    cross join latest
    cross join lateral (
        select clients.id, clients.live_from, clients.ctid as place,
               (clients.is_active or clients.id = any ($2::text[]))
                   and (least(clients.last_heartbeat, clients.live_from_at) < clock_timestamp() - interval '5 seconds'
                        or not clients.is_active or clients.live_from > latest.last_value) as is_silent
        from clients
        where clients.id = wanted.id
        offset 0
    ) as c
    cross join lateral (
        select sum(a.cpu)::bigint as cpu, sum(a.accelerators)::bigint as accelerators, min(a.sequence) as first
        from attempts a
        where a.client_id = c.id and a.sequence >= case when c.live_from <= latest.last_value then c.live_from else 0 end
          and a.ended_at is null and a.lease_seconds is not null
    ) as live
), noted as (
    update clients
    set last_heartbeat = clock_timestamp(), is_active = true, live_from_at = clock_timestamp(),
        live_from = coalesce((select held.first from held where held.id = clients.id), (select last_value from latest))
    where ctid = any (array (select held.place from held where held.is_silent))
)
select id, cpu, accelerators
from held
where cpu is not null
