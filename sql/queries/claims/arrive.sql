-- Locks clients until the transaction ends, and tells what they have in all, and whether they are there: who has signed off is there again only if it claims
-- anew.
--
-- One by one, in the order of their ids: compared with all ids at once, all clients would be read as long as there are not very many.
-- $1 client ids, $2 those of them that claim now
select locked.id, locked.available_cpu, locked.available_accelerators, locked.is_active or locked.id = any ($2::text[]) as is_there
from (
    select distinct wanted.id collate "C" as id
    from unnest($1::text[]) as wanted (id)
    order by 1
) as wanted
cross join lateral (
    select c.id, c.available_cpu, c.available_accelerators, c.is_active
    from clients c
    where c.id = wanted.id
    for no key update
) as locked
