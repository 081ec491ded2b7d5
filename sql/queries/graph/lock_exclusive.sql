-- Takes a project's graph for a transaction that changes edges, or that blocks, unblocks or deletes jobs.
-- $1 project id
select status
from projects
where id = $1
for no key update
