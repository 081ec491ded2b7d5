-- Holds a project's graph still for a transaction that adds jobs: others may add as well, none may change what is there.
-- $1 project id
select status
from projects
where id = $1
for share
