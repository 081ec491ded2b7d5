-- A page of keys by id (which is by age), and how many there are in all. Always at least one row: with an empty page its id is null.
-- $1 user id or null for any, $2 only ids above this, $3 skip, $4 limit
select (select count(*) from keys where $1::bigint is null or user_id = $1) as total, page.*
from (select) as always
left join (
    select k.id, k.name, k.user_id, u.name as user_name, k.grants, k.rate_limit, k.expires_at, k.revoked_at, k.successor, k.last_used_at, k.created_at
    from keys k
    left join users u on u.id = k.user_id
    where ($1::bigint is null or k.user_id = $1) and k.id > $2
    order by k.id
    offset $3 limit $4
) as page on true
order by page.id
