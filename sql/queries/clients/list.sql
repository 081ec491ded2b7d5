-- A page of clients by id, and how many there are in all. Always at least one row: with an empty page its id is null.
-- $1 only active ones, $2 only ids above this, $3 skip, $4 limit
select (select count(*) from clients where is_active or not $1) as total,
       page.id, page.name, page.entity, page.description, page.available_cpu, page.available_accelerators,
       page.last_heartbeat, page.created_at, page.is_active
from (select) as always
left join (
    select id, name, entity, description, available_cpu, available_accelerators, last_heartbeat, created_at, is_active
    from clients
    where (is_active or not $1) and id > $2
    order by id
    offset $3 limit $4
) as page on true
order by page.id
