-- Whether somebody may speak for the client of an attempt (clients/may_use.sql). An attempt of nobody is everybody's. No row if there is none.
-- $1 job id, $2 number, $3 user or null, $4 key
with recursive client as materialized (
    select c.id, c.owner_user, c.owner_key
    from attempts a
    join clients c on c.id = a.client_id
    where a.job_id = $1 and a.number = $2
), line as (
    select k.id, k.successor
    from client
    join keys k on k.id = client.owner_key
    union
    select k.id, k.successor
    from line
    join keys k on k.id = line.successor
)
select client.id,
       client.owner_key is null or coalesce(client.owner_user = $3, false) or client.owner_key = $4
           or exists (select from line where line.id = $4) as may_use
from client
