-- Locks clients until the transaction ends, and tells what they have in all, and whether they are there: who has signed off is there again only if it claims
-- anew.
-- $1 client ids, $2 those of them that claim now
select id, available_cpu, available_accelerators, is_active or id = any ($2::text[]) as is_there
from clients
where id = any ($1::text[])
order by id
for no key update
