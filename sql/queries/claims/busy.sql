-- How many clients are alive and have this in all, and whether one of them has it left now. Nothing is locked, and it is counted as in claims/room.sql.
-- $1 cpu, $2 accelerators, $3 where looking at clients stops
with latest as materialized (
    select last_value from attempts_sequence_seq
), fitting as materialized (
    select id, available_cpu, available_accelerators, live_from
    from clients
    where is_active and available_cpu >= $1 and available_accelerators >= $2
    limit $3
)
select (select count(*) from fitting) as fitting,
       exists (
           select
           from fitting c
           cross join latest
           cross join lateral (
               select coalesce(sum(a.cpu), 0)::bigint as cpu, coalesce(sum(a.accelerators), 0)::bigint as accelerators
               from attempts a
               where a.client_id = c.id and a.sequence >= case when c.live_from <= latest.last_value then c.live_from else 0 end
                 and a.ended_at is null and a.lease_seconds is not null
           ) as live
           where c.available_cpu - live.cpu >= $1 and c.available_accelerators - live.accelerators >= $2
       ) as has_room
