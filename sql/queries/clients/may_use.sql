-- Whether somebody may speak for a client: it is nobody's, their user's, their key's, or that of a key which theirs has succeeded.
-- And whose key's it is. No row if there is none.
-- $1 client id, $2 user or null, $3 key
with recursive line as (
    select k.id, k.successor
    from clients c
    join keys k on k.id = c.owner_key
    where c.id = $1
    union
    select k.id, k.successor
    from line
    join keys k on k.id = line.successor
)
select c.owner_key is null or coalesce(c.owner_user = $2, false) or c.owner_key = $3 or exists (select from line where line.id = $3) as may_use,
       c.owner_key
from clients c
where c.id = $1
