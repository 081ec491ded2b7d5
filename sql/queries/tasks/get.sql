-- One task by its id.
-- $1 task id
select id, name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds, created_at, updated_at
from tasks
where id = $1
