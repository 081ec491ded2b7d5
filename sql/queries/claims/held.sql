-- What clients' attempts hold of them, if anything. All of these clients must be locked before: until then others may claim for them.
--
-- Attempts that ended leave dead entries in the index, which no vacuum can remove while anybody holds an old snapshot. So each client's row says from where on
-- its attempts live: claims of one client follow each other, each with a higher sequence. That is raised now and then, and that they are there is noted; who
-- has signed off is there again only if it claims anew.
-- $1 client ids, $2 those of them that claim now
with held as materialized (
    select c.id, live.cpu, live.accelerators, live.first
    from clients c
    cross join lateral (
        select sum(a.cpu)::bigint as cpu, sum(a.accelerators)::bigint as accelerators, min(a.sequence) as first
        from attempts a
        where a.client_id = c.id and a.sequence >= c.live_from and a.ended_at is null and a.lease_seconds is not null
    ) as live
    where c.id = any ($1::text[])
), noted as (
    update clients
    set last_heartbeat = clock_timestamp(), is_active = true, live_from_at = clock_timestamp(),
        live_from = coalesce((select held.first from held where held.id = clients.id), (select last_value from attempts_sequence_seq))
    where id = any (array (select held.id from held))
      and (is_active or id = any ($2::text[]))
      and (least(last_heartbeat, live_from_at) < clock_timestamp() - interval '5 seconds' or not is_active)
)
select id, cpu, accelerators
from held
where cpu is not null
