-- The tasks of a name: one in a project; without a project, the oldest of that name.
-- $1 task name, $2 project id or null for any, $3 only these projects' or null for all
select id, name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds, created_at, updated_at
from tasks
where name = $1 and ($2::bigint is null or project_id = $2) and ($3::bigint[] is null or project_id = any ($3))
order by id
limit 1
