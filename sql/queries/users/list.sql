-- A page of users by id, and how many there are in all. Always at least one row: with an empty page its id is null.
-- $1 only ids above this, $2 skip, $3 limit
select (select count(*) from users) as total, page.*
from (select) as always
left join (
    select id, name, grants, active, created_at, updated_at
    from users
    where id > $1
    order by id
    offset $2 limit $3
) as page on true
order by page.id
