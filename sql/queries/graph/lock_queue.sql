-- Locks all pending jobs of a project in the order of their ids, so that none is claimed any more, and says how many they are.
-- $1 project id
select count(*) as locked
from (select from jobs where project_id = $1 and status = 'PENDING' order by id for no key update) as job
