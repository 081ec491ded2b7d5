-- Changes the given fields of a task; null leaves a field as it is.
-- $1 task id, $2 name, $3 whether the command template is given, $4 command template, $5 required cpu, $6 required accelerators
update tasks
set name = coalesce($2, name),
    command_template = case when $3 then $4 else command_template end,
    required_cpu = coalesce($5, required_cpu),
    required_accelerators = coalesce($6, required_accelerators),
    updated_at = greatest(clock_timestamp(), updated_at + interval '1 microsecond')
where id = $1
returning id, name, project_id, command_template, required_cpu, required_accelerators, created_at, updated_at
