-- A page of projects by id, and how many there are in all. Always at least one row: with an empty page its id is null.
-- $1 status or null for any, $2 only ids above this, $3 skip, $4 limit, $5 only these or null for all
select (select count(*) from projects where ($1::text is null or status = $1) and ($5::bigint[] is null or id = any ($5))) as total,
       page.id, page.name, page.description, page.status, page.created_at, page.updated_at
from (select) as always
left join (
    select id, name, description, status, created_at, updated_at
    from projects
    where ($1::text is null or status = $1) and ($5::bigint[] is null or id = any ($5)) and id > $2
    order by id
    offset $3 limit $4
) as page on true
order by page.id
