-- Holds a project's graph still for a transaction that adds jobs: others may add as well, none may change what is there.
--
-- Before the row comes a gate, since sharers of a row do not queue behind who waits to have it alone: as long as one of them is there it would wait. The row
-- itself is locked for servers that know of no gate, and for foreign keys.
-- $1 project id
select p.status
from (select $1::bigint as id from pg_advisory_xact_lock_shared(20020, hashint8($1)) offset 0) as gate
cross join lateral (select status from projects where id = gate.id for share) as p
