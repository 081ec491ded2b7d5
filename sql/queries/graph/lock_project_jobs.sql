-- Locks all jobs of a project in the order of their ids and says how many they are.
-- $1 project id
select count(*) as locked
from (select from jobs where project_id = $1 order by id for no key update) as job
