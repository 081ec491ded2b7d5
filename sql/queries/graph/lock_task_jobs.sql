-- Locks all jobs of a task in the order of their ids and says how many they are.
-- $1 task id
select count(*) as locked
from (select from jobs where task_id = $1 order by id for no key update) as job
