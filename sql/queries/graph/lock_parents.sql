-- Locks the jobs that others are to depend on, in the order of their ids, so that none of them completes unseen meanwhile.
-- $1 project id, $2 job ids
select id, status
from jobs
where id = any ($2::bigint[]) and project_id = $1
order by id
for share
