-- What clients have left, less than nothing for who registered anew with less than it holds. Nothing is locked: a claim asks again (claims/held.sql).
-- $1 client ids
with latest as materialized (
    select last_value from attempts_sequence_seq
)
select c.id, c.available_cpu - live.cpu as cpu, c.available_accelerators - live.accelerators as accelerators
from unnest($1::text[]) as wanted (id)
cross join latest
cross join lateral (
    select clients.id, clients.available_cpu, clients.available_accelerators, clients.live_from
    from clients
    where clients.id = wanted.id
    offset 0
) as c
cross join lateral (
    select coalesce(sum(a.cpu), 0)::bigint as cpu, coalesce(sum(a.accelerators), 0)::bigint as accelerators
    from attempts a
    where a.client_id = c.id and a.sequence >= case when c.live_from <= latest.last_value then c.live_from else 0 end
      and a.ended_at is null and a.lease_seconds is not null
) as live
