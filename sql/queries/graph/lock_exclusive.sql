-- Takes a project's graph for a transaction that changes edges, or that blocks, unblocks or deletes jobs. Whoever waits for that comes before those who ask to
-- add jobs later (graph/lock_shared.sql).
-- $1 project id
select p.status
from (select $1::bigint as id from pg_advisory_xact_lock(20020, hashint8($1)) offset 0) as gate
cross join lateral (select status from projects where id = gate.id for no key update) as p
