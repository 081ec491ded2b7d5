-- Which of these tasks are not the project's (or do not exist)?
-- $1 project id, $2 task ids
select wanted.id
from unnest($2::bigint[]) as wanted (id)
where not exists (select from tasks where tasks.id = wanted.id and tasks.project_id = $1)
order by wanted.id
limit 1
