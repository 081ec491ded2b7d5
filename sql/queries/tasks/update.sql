-- Changes the given fields of a task; null leaves a field as it is.
-- $1 task id, $2 name, $3 whether the command template is given, $4 command template, $5 required cpu, $6 required accelerators,
-- $7 whether the most attempts are given, $8 most attempts, $9 whether the backoff is given, $10 backoff in seconds
update tasks
set name = coalesce($2, name),
    command_template = case when $3 then $4 else command_template end,
    required_cpu = coalesce($5, required_cpu),
    required_accelerators = coalesce($6, required_accelerators),
    max_attempts = case when $7 then $8 else max_attempts end,
    backoff_seconds = case when $9 then $10 else backoff_seconds end,
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
returning id, name, project_id, command_template, required_cpu, required_accelerators, max_attempts, backoff_seconds, created_at, updated_at
